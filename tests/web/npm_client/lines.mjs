// Talks to the test that started the script: JSON, one object a line. The test ends the script by closing its stdin.
import { createInterface } from 'node:readline'

export function report (event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
}

export function obey (commands) {
  const input = createInterface({ input: process.stdin })
  input.on('line', line => {
    const { command, ...fields } = JSON.parse(line)
    commands[command](fields)
  })
  input.on('close', () => process.exit(0))
}

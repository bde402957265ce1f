// npm's bittorrent-tracker as a WebSocket tracker: node bittorrent_tracker.mjs PORT
// With CERTIFICATE and KEY in the environment it speaks TLS; to the file GC_PAUSES goes a line for each pause.

import fs from 'fs'
import https from 'https'
import { performance, PerformanceObserver } from 'perf_hooks'
import Server from '../tests/web/node_modules/bittorrent-tracker/server.js'

const { CERTIFICATE, KEY, GC_PAUSES } = process.env
const port = Number(process.argv[2])

if (GC_PAUSES) {
  const file = fs.openSync(GC_PAUSES, 'a')
  const observer = new PerformanceObserver(list => {
    const lines = list.getEntries().map(one => `${(performance.timeOrigin + one.startTime) / 1e3} ${one.duration / 1e3}\n`)
    fs.writeSync(file, lines.join(''))
  })
  observer.observe({ entryTypes: ['gc'] })
}

const server = new Server({ ws: CERTIFICATE ? { noServer: true } : true, udp: false, http: false })
server.on('error', error => { throw error })
server.on('warning', () => {})
if (CERTIFICATE) {
  const front = https.createServer({ cert: fs.readFileSync(CERTIFICATE), key: fs.readFileSync(KEY) })
  front.on('upgrade', (request, socket, head) => {
    server.ws.handleUpgrade(request, socket, head, client => server.ws.emit('connection', client, request))
  })
  front.listen(port, '127.0.0.1', 4096)
} else {
  server.listen(port, '127.0.0.1')
}

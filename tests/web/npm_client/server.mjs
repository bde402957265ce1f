// Runs the WebSocket tracker of npm's bittorrent-tracker.
import Server from 'bittorrent-tracker/server'
import { obey, report } from './lines.mjs'

const server = new Server({ http: false, udp: false, stats: false })
server.on('error', error => report('error', { text: error.message }))
server.listen(0, '127.0.0.1', () => report('listening', { port: server.ws.address().port }))
obey({})

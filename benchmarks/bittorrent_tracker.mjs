// npm's bittorrent-tracker as a WebSocket tracker: node bittorrent_tracker.mjs PORT

import Server from '../tests/web/node_modules/bittorrent-tracker/server.js'

const server = new Server({ ws: true, udp: false, http: false })
server.on('error', error => { throw error })
server.listen(Number(process.argv[2]), '127.0.0.1')

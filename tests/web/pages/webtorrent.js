import WebTorrent from 'webtorrent/dist/webtorrent.min.js'

const client = new WebTorrent({ tracker: { rtcConfig: { iceServers: [] } } })
client.on('error', error => { throw error })

globalThis.seed = (trackers, name, pieceLength, base64) => {
  const file = new File([Uint8Array.fromBase64(base64)], name)
  client.seed(file, { announce: trackers, pieceLength }).once('trackerAnnounce', () => report('announced'))
}

globalThis.leech = magnet => {
  const torrent = client.add(magnet)
  torrent.once('trackerAnnounce', () => report('announced'))
  torrent.once('done', async () => {
    const content = new Uint8Array(await torrent.files[0].arrayBuffer())
    report(`done ${torrent.infoHash}`, content.toBase64())
  })
}

// A client that has lost its tracker waits between ten seconds and five minutes; after this it does not.
globalThis.reconnectSoon = () => {
  for (const tracker of client.torrents.flatMap(torrent => torrent.discovery.tracker._trackers)) {
    tracker._startReconnectTimer = () => {
      tracker.reconnecting = true
      setTimeout(() => tracker._openSocket(), 100)
    }
  }
}

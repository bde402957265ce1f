// A page that knows one tracker: a WebTorrent client, and the card that shows it.
import WebTorrent from './webtorrent.min.js'
import { draw } from './picture.js'

const TYPES = { gif: 'image/gif', jpeg: 'image/jpeg', jpg: 'image/jpeg', png: 'image/png', svg: 'image/svg+xml', webp: 'image/webp' }

// A store of its own for each client. WebTorrent's usual one is shared by all pages of a web site: a client would find on
// the disk the pieces that another one has written, and nothing would travel.
class MemoryStore {
  constructor (chunkLength) {
    this.chunkLength = chunkLength
    this.chunks = []
  }

  put (index, chunk, done = () => {}) {
    this.chunks[index] = chunk
    queueMicrotask(() => done(null))
  }

  get (index, options, done) {
    if (typeof options === 'function') [options, done] = [{}, options]
    const chunk = this.chunks[index]
    const { offset = 0, length = chunk?.length - offset } = options ?? {}
    queueMicrotask(() => chunk ? done(null, chunk.slice(offset, offset + length)) : done(new Error('no such chunk')))
  }

  close (done = () => {}) { queueMicrotask(() => done(null)) }
  destroy (done) { this.close(done) }
}

// A peer_id contains the name of its page's tracker, one letter, so that the others can tell from where the data comes.
function peerIdAt (name) {
  const random = Array.from(crypto.getRandomValues(new Uint8Array(11)), byte => (byte % 36).toString(36)).join('')
  return new TextEncoder().encode(`-WW0208-${name}${random}`)
}

const homeOf = wire => String.fromCharCode(parseInt(wire.peerId.slice(16, 18), 16))
const seconds = since => `${((performance.now() - since) / 1000).toFixed(1)} s`
const size = bytes => bytes < 1e6 ? `${Math.ceil(bytes / 1000)} KB` : `${(bytes / 1e6).toFixed(1)} MB`

export class Page {
  // `onData(home)`: data has come from a page at that tracker. `onFile(infoHash)`: there is a new file.
  constructor (tracker, { onData, onFile }) {
    this.tracker = tracker
    this.onData = onData
    this.onFile = onFile
    this.progress = 0
    this.infoHash = ''
    this.isPeer = false // whether its tracker has answered
    this.root = document.querySelector('template').content.cloneNode(true).querySelector('section')
    this.find('h2').textContent = `Page ${tracker.name}`
    for (const name of this.root.querySelectorAll('.name')) name.textContent = tracker.name
    this.find('code').textContent = tracker.url
    this.find('.own').href = tracker.http
    this.find('.picture').onclick = async () => this.send(await draw())
    this.find('input').onchange = ({ target }) => {
      if (target.files.length) this.send(target.files[0])
      target.value = ''
    }
    document.getElementById('pages').append(this.root)
    // The pages tell each other the infohash, as people send each other a magnet link. The newest file wins.
    this.channel = new BroadcastChannel('infohash')
    this.channel.onmessage = ({ data: { infoHash, sentAt } }) => this.receive(infoHash, sentAt)
    this.sentAt = -1
    this.setInfoHash('')
    this.say('waits for a file')
  }

  find (selector) { return this.root.querySelector(selector) }
  say (text) { this.find('.status').textContent = text }

  // The trackers of the pages that this one is connected to.
  get neighbours () { return new Set(this.torrent?.wires.map(homeOf)) }

  setInfoHash (infoHash) {
    this.infoHash = infoHash
    this.find('.more').href = `?at=${this.tracker.name}#${infoHash}`
    if (infoHash) this.onFile(infoHash)
  }

  // Start with a new client, unless there is a newer file.
  begin (sentAt) {
    if (sentAt <= this.sentAt) return null
    this.sentAt = sentAt
    this.client?.destroy()
    const client = this.client = new WebTorrent({
      peerId: peerIdAt(this.tracker.name),
      dht: false,
      lsd: false,
      // On one machine, peers need no STUN server.
      tracker: { rtcConfig: { iceServers: [] } }
    })
    client.on('error', error => this.say(error.message))
    client.on('add', torrent => torrent.once('trackerAnnounce', () => { this.isPeer = client === this.client }))
    this.isPeer = false
    this.torrent = null
    this.progress = 0
    this.find('progress').value = 0
    this.find('.from').textContent = ''
    URL.revokeObjectURL(this.find('.save').href)
    for (const selector of ['img', '.file', '.save']) this.find(selector).hidden = true
    return client
  }

  // `sentAt`: milliseconds since 1970.
  send (file, sentAt = Date.now()) {
    const client = this.begin(sentAt)
    if (!client) return
    this.say('prepares the file')
    client.seed(file, { announce: [this.tracker.url], store: MemoryStore }, torrent => {
      if (client !== this.client) return
      this.torrent = torrent
      this.setInfoHash(torrent.infoHash)
      this.show(file, file.name)
      this.say(`sends ${size(file.size)}`)
      this.channel.postMessage({ infoHash: torrent.infoHash, sentAt })
    })
  }

  receive (infoHash, sentAt) {
    const client = this.begin(sentAt)
    if (!client) return
    this.setInfoHash(infoHash)
    this.say('asks its tracker for peers')
    const started = performance.now()
    const magnet = `magnet:?xt=urn:btih:${infoHash}&tr=${encodeURIComponent(this.tracker.url)}`
    const torrent = this.torrent = client.add(magnet, { store: MemoryStore })
    const from = new Map()
    let met = ''
    torrent.on('wire', wire => {
      const home = homeOf(wire)
      if (!met) this.say(`met page ${home} after ${met = seconds(started)}`)
      wire.on('download', bytes => {
        from.set(home, (from.get(home) ?? 0) + bytes)
        this.onData(home)
      })
    })
    torrent.on('download', () => {
      this.progress = torrent.progress
      this.find('progress').value = torrent.progress
    })
    torrent.once('done', async () => {
      const [file] = torrent.files
      const blob = await file.blob()
      if (client !== this.client) return
      this.show(new Blob([blob], { type: TYPES[file.name.split('.').pop().toLowerCase()] ?? '' }), file.name)
      this.say(`has it after ${seconds(started)}`)
      const parts = [...from].sort().map(([home, bytes]) => `${size(bytes)} from ${home}`.replaceAll(' ', '\u00a0'))
      this.find('.from').textContent = `Met a peer after ${met}; ${parts.join(', ')}`
    })
  }

  show (blob, name) {
    const url = URL.createObjectURL(blob)
    const isImage = blob.type.startsWith('image/')
    this.progress = this.find('progress').value = 1
    this.find('img').hidden = !isImage
    this.find('.file').hidden = isImage
    if (isImage) this.find('img').src = url
    else this.find('.file').textContent = `${name}, ${size(blob.size)}`
    Object.assign(this.find('.save'), { hidden: false, href: url, download: name })
  }

  // Show the tracker's state: its peers, and the trackers that it is linked with; null if it can't be reached.
  showTracker (peers, linked) {
    this.find('.state').textContent = peers === null
      ? 'can’t be reached'
      : `${peers} peer${peers === 1 ? '' : 's'}, ${linked.length ? `linked with ${linked.join(' and ')}` : 'not linked yet'}`
  }
}

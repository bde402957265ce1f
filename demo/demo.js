// Seeds a text on one tracker, and downloads it from two others. docker-compose.yml starts the three trackers.
import WebTorrent from './webtorrent.min.js'

const TRACKERS = [8001, 8002, 8003].map(port => `ws://${location.hostname}:${port}`)
const SCRAPE_MS = 1000
const RECONNECT_MS = 3000
const WORDS = 'a all and at by each find for from is knows meet of on one other peer swarm text the they to tracker two'

const latin1 = hex => String.fromCharCode(...hex.match(/../g).map(pair => parseInt(pair, 16)))

// The card on the page for a tracker and the client that uses it.
class Card {
  constructor (url, title) {
    const root = document.querySelector('template').content.cloneNode(true).querySelector('section')
    root.querySelector('h2').textContent = title
    root.querySelector('code').textContent = url
    document.querySelector('main').append(root)
    this.url = url
    this.find = selector => root.querySelector(selector)
  }

  say (text) { this.find('[role=status]').textContent = text }
  show (text) { this.find('pre').textContent = text }
  progress (part) { this.find('progress').value = part }

  count (seeders, leechers) {
    this.find('.seeders').textContent = seeders
    this.find('.leechers').textContent = leechers
  }
}

// One text, with the client that seeds it and those that download it.
class Run {
  constructor (cards) {
    this.cards = cards
    this.infoHash = ''
    // Host candidates suffice on one machine, so no STUN server is needed.
    this.clients = cards.map(() => new WebTorrent({ dht: false, tracker: { rtcConfig: { iceServers: [] } } }))
    this.clients.forEach((client, number) => client.on('error', error => cards[number].say(error.message)))
    for (const card of cards) {
      card.show('')
      card.progress(0)
      card.say('waits for the seeder')
    }
    document.getElementById('infohash').textContent = '-'
    this.seed()
  }

  seed () {
    const [card] = this.cards
    const [client] = this.clients
    const words = WORDS.split(' ')
    const text = Array.from(crypto.getRandomValues(new Uint16Array(60)), drawn => words[drawn % words.length]).join(' ')
    card.show(text)
    card.say('connects to its tracker')
    client.seed(new File([text], 'text.txt'), { announce: [card.url] }, torrent => {
      document.getElementById('infohash').textContent = this.infoHash = torrent.infoHash
      torrent.once('trackerAnnounce', () => {
        card.say('seeds')
        card.progress(1)
        for (const number of [1, 2]) this.download(number)
      })
    })
  }

  download (number) {
    const card = this.cards[number]
    const started = performance.now()
    card.say('looks for peers')
    const magnet = `magnet:?xt=urn:btih:${this.infoHash}&tr=${encodeURIComponent(card.url)}`
    const torrent = this.clients[number].add(magnet)
    torrent.once('wire', () => card.say('is connected to a peer'))
    torrent.on('download', () => card.progress(torrent.progress))
    torrent.once('done', async () => {
      card.show(await (await torrent.files[0].blob()).text())
      card.progress(1)
      card.say(`done after ${((performance.now() - started) / 1000).toFixed(1)} s`)
    })
  }

  end () {
    for (const client of this.clients) client.destroy()
  }
}

let run = null

// Scrapes a tracker for its counts. A scrape does not make this client a peer.
function watch (card) {
  const socket = new WebSocket(card.url)
  const timer = setInterval(() => {
    if (run?.infoHash && socket.readyState === WebSocket.OPEN) {
      socket.send(JSON.stringify({ action: 'scrape', info_hash: latin1(run.infoHash) }))
    }
  }, SCRAPE_MS)
  socket.onmessage = ({ data }) => {
    const counts = run?.infoHash && JSON.parse(data).files?.[latin1(run.infoHash)]
    if (counts) card.count(counts.complete, counts.incomplete)
  }
  socket.onclose = () => {
    clearInterval(timer)
    card.count('-', '-')
    setTimeout(watch, RECONNECT_MS, card)
  }
}

const cards = TRACKERS.map((url, number) => new Card(url, number ? 'Downloader' : 'Seeder'))
cards.forEach(watch)
run = new Run(cards)

document.getElementById('again').onclick = () => {
  run.end()
  run = new Run(cards)
}

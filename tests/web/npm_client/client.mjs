// Runs clients of npm's bittorrent-tracker, any number, each under a name.
import { register } from 'node:module'
import { obey, report } from './lines.mjs'

register('./hooks.mjs', import.meta.url)
const { default: Client } = await import('bittorrent-tracker/client')

// A client that lost its tracker waits for 10 s, doubled with each attempt up to an hour, plus a random time of up to
// 5 minutes. Here it waits for 0.2 s, however many attempts it takes; all else is as it was.
const isReconnect = ms => ms === 3_600_000 || (ms >= 10_000 && Number.isInteger(Math.log2(ms / 10_000)))
const { setTimeout } = globalThis
globalThis.setTimeout = (callback, ms, ...rest) => setTimeout(callback, isReconnect(ms) ? 200 : ms, ...rest)
Math.random = () => 0

const options = { port: 6881, rtcConfig: { iceServers: [] }, wrtc: true }
const clients = new Map()

obey({
  create ({ name, announce, infoHash, peerId, always }) {
    const client = new Client({ ...options, announce, infoHash, peerId, getAnnounceOpts: always && (() => always) })
    clients.set(name, client)
    for (const event of ['warning', 'error']) {
      client.on(event, error => {
        // A peer that was destroyed while others connected to it is none of the tracker's business.
        if (!error.message.startsWith('Connection error:')) report(event, { name, text: error.message })
      })
    }
    for (const event of ['update', 'scrape']) {
      client.on(event, data => report(event, { name, ...data }))
    }
    client.on('peer', peer => {
      peer.on('connect', () => peer.send(`from ${name}`))
      peer.on('data', data => report('message', { name, peerId: peer.id, text: new TextDecoder().decode(data) }))
      // The other end may leave at any time.
      peer.on('error', () => {})
    })
  },

  // start, update, complete, stop, scrape
  call ({ name, method, options }) {
    clients.get(name)[method](options)
  },

  destroy ({ name }) {
    clients.get(name).destroy(() => report('destroyed', { name }))
  },

  // The function that needs no client.
  scrapeOnce ({ announce, infoHash }) {
    Client.scrape({ ...options, announce, infoHash }, (error, result) => {
      report('scraped', { error: error?.message, result })
    })
  }
})

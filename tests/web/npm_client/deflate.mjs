// Two peers over two sockets, in a page or in Node: one makes offers, and the other one receives the first of them.
export async function introduce (WebSocket, url, offers) {
  const infoHash = 'd'.repeat(20)
  const open = () => new Promise((resolve, reject) => {
    const socket = new WebSocket(url)
    socket.onopen = () => resolve(socket)
    socket.onerror = () => reject(new Error('no connection'))
  })
  const message = (socket, wanted) => new Promise((resolve, reject) => {
    socket.onmessage = ({ data }) => {
      const received = JSON.parse(data)
      if (wanted in received) resolve(received)
    }
    socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`))
  })
  const announce = async (socket, peerId, offers) => {
    const reply = message(socket, 'interval')
    socket.send(JSON.stringify({ action: 'announce', info_hash: infoHash, peer_id: peerId.repeat(20), left: 1, offers }))
    return reply
  }

  const [receiver, sender] = [await open(), await open()]
  await announce(receiver, 'r', [])
  const relayed = message(receiver, 'offer')
  await announce(sender, 's', offers)
  const { offer } = await relayed
  return { extensions: [receiver.extensions, sender.extensions], sdp: offer.sdp }
}

// In Node, the arguments are the URL of the tracker, and the offers.
if (globalThis.process) {
  const { WebSocket } = await import('ws')
  const [url, offers] = process.argv.slice(2)
  console.log(JSON.stringify(await introduce(WebSocket, url, JSON.parse(offers))))
  process.exit()
}

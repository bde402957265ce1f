import P2PT from 'p2pt'

globalThis.join = (tracker, name) => {
  const room = new P2PT([tracker], name)
  room.on('peerconnect', peer => {
    globalThis.say = text => room.send(peer, text)
    report('met', peer.id)
  })
  room.on('peerclose', peer => report('lost', peer.id))
  room.on('msg', (peer, text) => report('heard', text))
  room.start()
  report('joined', room._peerId)
}

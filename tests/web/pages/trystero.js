import { joinRoom, selfId } from '@trystero-p2p/torrent'

globalThis.join = (trackers, name) => {
  const config = { appId: 'rooms', relayConfig: { urls: [trackers].flat() }, rtcConfig: { iceServers: [] } }
  const room = joinRoom(config, name)
  const words = room.makeAction('words')
  room.onPeerJoin = id => report('met', id)
  room.onPeerLeave = id => report('lost', id)
  words.onMessage = text => report('heard', text)
  globalThis.say = text => words.send(text)
  report('joined', selfId)
}

import { joinRoom, selfId } from 'trystero-0.21/torrent'

globalThis.join = (trackers, name) => {
  const config = { appId: 'rooms', relayUrls: [trackers].flat(), rtcConfig: { iceServers: [] } }
  const room = joinRoom(config, name)
  const [send, receive] = room.makeAction('words')
  room.onPeerJoin(id => report('met', id))
  room.onPeerLeave(id => report('lost', id))
  receive(text => report('heard', text))
  globalThis.say = text => send(text)
  report('joined', selfId)
}

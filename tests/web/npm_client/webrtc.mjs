// In place of webtorrent's WebRTC for Node, which never says that it has gathered all candidates: each offer then takes 5 s.
import wrtc from '@roamhq/wrtc'

export const { RTCPeerConnection, RTCSessionDescription, RTCIceCandidate } = wrtc

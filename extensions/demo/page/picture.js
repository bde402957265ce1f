// Draws a landscape, a different one each time, to have a file that can be seen.
const WIDTH = 1200
const HEIGHT = 750
const LAYERS = 6

export async function draw () {
  const canvas = Object.assign(document.createElement('canvas'), { width: WIDTH, height: HEIGHT })
  const context = canvas.getContext('2d')
  const hue = Math.random() * 360
  const colour = (turn, saturation, light) => `hsl(${hue + turn} ${saturation}% ${light}%)`

  const sky = context.createLinearGradient(0, 0, 0, HEIGHT)
  sky.addColorStop(0, colour(0, 55, 30))
  sky.addColorStop(0.75, colour(50, 80, 75))
  context.fillStyle = sky
  context.fillRect(0, 0, WIDTH, HEIGHT)

  const [x, y, radius] = [WIDTH * (0.2 + 0.6 * Math.random()), HEIGHT * (0.2 + 0.25 * Math.random()), 50 + 50 * Math.random()]
  const glow = context.createRadialGradient(x, y, radius, x, y, radius * 4)
  glow.addColorStop(0, colour(60, 100, 90))
  glow.addColorStop(1, `hsl(${hue + 60} 100% 90% / 0)`)
  context.globalAlpha = 0.5
  context.fillStyle = glow
  context.fillRect(0, 0, WIDTH, HEIGHT)
  context.globalAlpha = 1
  context.fillStyle = colour(60, 100, 92)
  context.beginPath()
  context.arc(x, y, radius, 0, 2 * Math.PI)
  context.fill()

  for (let layer = 0; layer < LAYERS; layer++) {
    const waves = [1, 2, 5, 11].map(rate => [rate * (3 + layer), Math.random() * 7, 60 / rate])
    context.fillStyle = colour(30 - layer * 8, 45, 60 - layer * 9)
    context.beginPath()
    context.moveTo(0, HEIGHT)
    for (let at = 0; at <= WIDTH; at += 4) {
      const height = waves.reduce((sum, [rate, shift, size]) => sum + size * Math.sin(rate * at / WIDTH + shift), 0)
      context.lineTo(at, HEIGHT * (0.5 + 0.085 * layer) - height)
    }
    context.lineTo(WIDTH, HEIGHT)
    context.fill()
  }

  // Grain makes the file large enough for several pieces.
  const pixels = context.getImageData(0, 0, WIDTH, HEIGHT)
  for (let at = 0; at < pixels.data.length; at += 4) {
    const grain = 16 * (Math.random() - 0.5)
    for (let part = 0; part < 3; part++) pixels.data[at + part] += grain
  }
  context.putImageData(pixels, 0, 0)
  const blob = await new Promise(resolve => canvas.toBlob(resolve, 'image/jpeg', 0.9))
  return new File([blob], 'landscape.jpg', { type: blob.type })
}

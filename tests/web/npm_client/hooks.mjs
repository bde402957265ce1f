// Node asks this where the modules are that others import.
export function resolve (specifier, context, next) {
  if (specifier === 'webrtc-polyfill') return next(new URL('webrtc.mjs', import.meta.url).href, context)
  return next(specifier, context)
}

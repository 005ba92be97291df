// Loaded before a node of js-ipfs: writes down, and refuses, whatever would leave this machine.
const fs = require('fs')
const net = require('net')
const dgram = require('dgram')
const dns = require('dns')

const LOOPBACK = /^(127\.|::1$|localhost$|::ffff:127\.)/

function refuse (what) {
  fs.appendFileSync(process.env.DIALLED, what + '\n')
  throw Object.assign(new Error('nothing may dial out: ' + what), { code: 'ENETUNREACH' })
}

const connect = net.Socket.prototype.connect
net.Socket.prototype.connect = function (...args) {
  const given = Array.isArray(args[0]) ? args[0][0] : args[0]
  const target = typeof given === 'object' ? given : { port: given, host: args[1] }
  const host = target.path ? 'localhost' : target.host || 'localhost'
  if (!LOOPBACK.test(host)) refuse('tcp ' + host)
  return connect.apply(this, args)
}
dgram.Socket.prototype.send = () => refuse('udp')
dgram.Socket.prototype.addMembership = () => refuse('multicast')
for (const name of ['lookup', 'resolve', 'resolve4', 'resolve6', 'resolveTxt', 'resolveAny']) {
  for (const place of [dns, dns.promises]) {
    const ask = place[name]
    place[name] = (host, ...rest) => LOOPBACK.test(host) ? ask.call(place, host, ...rest) : refuse(`dns ${host}`)
  }
}

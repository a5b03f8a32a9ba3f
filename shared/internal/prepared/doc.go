// Package prepared checks signatures with a public key that is used often. It
// computes multiples of the key's point once, and then checks a signature with
// additions only: an Ed25519 signature in a third of the time that crypto/ed25519
// takes, an ES256 signature in half of the time that crypto/ecdsa takes.
//
// Each check gives the verdict that the standard library gives, for every key,
// message and signature. The curve arithmetic is that of filippo.io/edwards25519
// and filippo.io/nistec, from which the standard library has its own.
//
// Nothing here is secret: a public key, a message and a signature are known to
// those who send them. So the time that a check takes may depend on them.
//
// A Cache keeps what is prepared, for a bounded number of keys: 12 MB at most.
package prepared

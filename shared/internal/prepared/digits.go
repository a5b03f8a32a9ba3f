package prepared

// A scalar is written in base 32, with digits from -15 to 16. One of 256 bits has
// 52 of them: the last one stands for its highest bit, and a carry.
const (
	radix  = 32
	half   = radix / 2
	digits = 52
)

// signedDigits returns the digits of k, the lowest one first. k is little-endian.
func signedDigits(k *[32]byte) (out [digits]int8) {
	carry := 0
	for i := range out {
		at, shift := i*5/8, i*5%8
		bits := int(k[at])
		if at+1 < len(k) {
			bits |= int(k[at+1]) << 8
		}
		digit := bits>>shift&(radix-1) + carry
		carry = 0
		if digit > half {
			digit -= radix
			carry = 1
		}
		out[i] = int8(digit)
	}
	return out
}

package prepared

// A scalar is written in base 64, with digits from -31 to 32. One of 256 bits has 43
// of them: the last one stands for its four highest bits, and a carry.
const (
	width  = 6
	radix  = 1 << width
	half   = radix / 2
	digits = 43
)

// signedDigits returns the digits of k, the lowest one first. k is little-endian.
func signedDigits(k *[32]byte) (out [digits]int8) {
	carry := 0
	for i := range out {
		at, shift := i*width/8, i*width%8
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

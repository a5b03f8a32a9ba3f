package prepared

// width is that of the digits, in bits, in which a scalar is multiplied with a key's
// point: they are from -31 to 32.
const width = 6

// digitsOf returns how many digits a scalar of 256 bits has. The last one stands for the
// bits that are left, and a carry.
func digitsOf(width int) int { return 256/width + 1 }

// mostDigits is digitsOf(width), the most that signedDigits returns.
const mostDigits = 256/width + 1

// signedDigits returns the digits of k, the lowest one first; what follows the last one is
// zero. k is little-endian, and width from 6 to 9.
func signedDigits(k *[32]byte, width int) (out [mostDigits]int16) {
	carry := 0
	for i := range digitsOf(width) {
		at, shift := i*width/8, i*width%8
		bits := 0
		if at < len(k) {
			bits = int(k[at])
		}
		if at+1 < len(k) {
			bits |= int(k[at+1]) << 8
		}
		digit := bits>>shift&(1<<width-1) + carry
		carry = 0
		if digit > 1<<(width-1) {
			digit -= 1 << width
			carry = 1
		}
		out[i] = int16(digit)
	}
	return out
}

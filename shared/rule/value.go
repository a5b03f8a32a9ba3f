package rule

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// scalar returns a value as text, or what is wrong with it.
func (w *walk) scalar(f *planField, v protoreflect.Value, longest int) (text, fault string) {
	var scratch [24]byte
	switch f.kind {
	case protoreflect.BoolKind:
		return strconv.FormatBool(v.Bool()), ""
	case protoreflect.EnumKind:
		if f.enum.ByNumber(v.Enum()) == nil {
			return "", "the enum does not have this number"
		}
		return w.keep(strconv.AppendInt(scratch[:0], int64(v.Enum()), 10)), ""
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return w.keep(strconv.AppendInt(scratch[:0], v.Int(), 10)), ""
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind, protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return w.keep(strconv.AppendUint(scratch[:0], v.Uint(), 10)), ""
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return w.float(f.kind, v.Float())
	case protoreflect.StringKind:
		switch s := v.String(); {
		case len(s) > longest:
			return "", "it is too long"
		case !utf8.ValidString(s):
			return "", "it is not UTF-8"
		default:
			return s, ""
		}
	case protoreflect.BytesKind:
		b := v.Bytes()
		if base64.RawURLEncoding.EncodedLen(len(b)) > longest {
			return "", "it is too long"
		}
		return base64.RawURLEncoding.EncodeToString(b), ""
	}
	return "", "it is of a kind that no token can name"
}

// float returns the IEEE 754 bits in hexadecimal: the one text that keeps every
// number apart, negative zero too.
func (w *walk) float(kind protoreflect.Kind, x float64) (text, fault string) {
	var bits [8]byte
	var scratch [16]byte
	switch {
	case math.IsNaN(x):
		return "", "it is not a number"
	case kind == protoreflect.FloatKind:
		binary.BigEndian.PutUint32(bits[:4], math.Float32bits(float32(x)))
		return w.keep(hex.AppendEncode(scratch[:0], bits[:4])), ""
	default:
		binary.BigEndian.PutUint64(bits[:], math.Float64bits(x))
		return w.keep(hex.AppendEncode(scratch[:0], bits[:])), ""
	}
}

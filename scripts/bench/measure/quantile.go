package measure

import "slices"

func Median[T any](all []T, of func(T) float64) float64 { return Quantile(all, 0.5, of) }

// Quantile returns the value that a part q of all is not above.
func Quantile[T any](all []T, q float64, of func(T) float64) float64 {
	if len(all) == 0 {
		return 0
	}
	values := make([]float64, len(all))
	for i, x := range all {
		values[i] = of(x)
	}
	slices.Sort(values)
	return values[min(int(q*float64(len(values))), len(values)-1)]
}

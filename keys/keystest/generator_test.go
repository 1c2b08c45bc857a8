package keystest

import "testing"

// Ready-made keys are valid, of the right size and all different.
func TestGenerator(t *testing.T) {
	generate, seen := Generator(), map[string]bool{}
	for i := range 200 {
		k, err := generate(readyBits)
		if err != nil {
			t.Fatal(i, err)
		}
		if n := k.N.String(); k.N.BitLen() != readyBits || seen[n] {
			t.Fatalf("key %d: %d bits, seen before: %v", i, k.N.BitLen(), seen[n])
		} else {
			seen[n] = true
		}
	}
}

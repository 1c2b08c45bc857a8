package statuslist

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"io"
	"testing"
	"time"
)

// vector is the list of one bit in Appendix C.1 of the draft, with the places that are set. Two encoders compress it
// to different texts, so what it holds counts.
const vector = "eNrt3AENwCAMAEGogklACtKQPg9LugC9k_ACvreiogEAAKkeCQAAAAAAAAAAAAAAAAAAAIBylgQAAAAAAAAAAAAAAAAAAAAAAA" +
	"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAXG9IAAAAAAAAAPwsJAAAAAAAAAAAAAAAvhsSAAAAAAAAAAAA7KpLAAAAAAAAAAAAAAAAAAAAAJsLC" +
	"QAAAAAAAAAAADjelAAAAAAAAAAAKjDMAQAAAACAZC8L2AEb"

var vectorPlaces = []int64{0, 1993, 25460, 159495, 495669, 554353, 645645, 723232, 854545, 934534, 1000345}

// open returns the bytes of a compressed list.
func open(t *testing.T, text string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	r, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	places, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return places
}

func TestVectorOfTheDraft(t *testing.T) {
	t.Parallel()
	l, err := Marked(vectorPlaces)
	if err != nil || l.Bits != 1 {
		t.Fatal(l.Bits, err)
	}
	if got := open(t, l.List); !bytes.Equal(got, open(t, vector)) {
		t.Errorf("%d bytes differ from those of the draft", len(got))
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	all, err := AllMarked()
	if err != nil {
		t.Fatal(err)
	}
	if got := open(t, all.List); !bytes.Equal(got, bytes.Repeat([]byte{0xff}, Size/8)) {
		t.Error("a place is not set")
	}
	none, err := Marked(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := open(t, none.List); !bytes.Equal(got, make([]byte, Size/8)) {
		t.Error("a place is set")
	}
	for _, bad := range []int64{-1, Size} {
		if _, err := Marked([]int64{bad}); err == nil {
			t.Errorf("place %d was set", bad)
		}
	}
}

// A scatter is a permutation, different for each seed, that leaves hardly a pair of neighbours together.
func TestScatter(t *testing.T) {
	t.Parallel()
	for _, seed := range []string{"0123456789abcdef", "0123456789abcdeg"} {
		s, err := NewScatter([]byte(seed))
		if err != nil {
			t.Fatal(err)
		}
		seen := make([]bool, Size)
		near, last := 0, int64(-1)
		for n := range int64(Size) {
			i := s.Index(n)
			if i < 0 || i >= Size || seen[i] {
				t.Fatalf("place %d: index %d", n, i)
			}
			seen[i] = true
			if d := i - last; d*d <= 100 {
				near++
			}
			last = i
		}
		if near > 100 { // 20 are expected by chance
			t.Errorf("%d pairs of neighbours stay near", near)
		}
	}
	if _, err := NewScatter([]byte("short")); err == nil {
		t.Error("a short seed is accepted")
	}
}

// TestSizes prints the size and the time of lists, by the number of marks.
func TestSizes(t *testing.T) {
	s, err := NewScatter([]byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 10, 100, 1000, 10_000} {
		marks := make([]int64, n)
		for i := range marks {
			marks[i] = s.Index(int64(i))
		}
		begun := time.Now()
		l, err := Marked(marks)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(begun)
		if len(l.List) > 300+5*n {
			t.Errorf("%d marks take %d bytes", n, len(l.List))
		}
		t.Logf("%6d marks: %6d bytes, built in %v", n, len(l.List), took.Round(10*time.Microsecond))
	}
}

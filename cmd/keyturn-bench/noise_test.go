package main

import (
	"os/exec"
	"regexp"
	"testing"
	"time"
)

func TestNoise(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	at := func(after, busy, steal, own time.Duration) clocks { return clocks{begun.Add(after), busy, steal, own} }
	before := at(0, time.Hour, time.Minute, time.Second)
	for name, c := range map[string]struct {
		after     clocks
		want      noise
		disturbed bool
	}{
		"all ours": {at(time.Second, time.Hour+2*time.Second, time.Minute, 3*time.Second), noise{}, false},
		"half of others": {
			at(time.Second, time.Hour+2*time.Second, time.Minute, 2*time.Second), noise{0, .5}, true,
		},
		"stolen": {
			at(time.Second, time.Hour+time.Second, time.Minute+200*time.Millisecond, 2*time.Second), noise{.1, 0}, true,
		},
		"ours by rounding": {at(time.Second, time.Hour, time.Minute, 2*time.Second), noise{}, false},
	} {
		got := c.after.since(before, 2)
		if got != c.want || got.disturbed() != c.disturbed {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestMachineTime(t *testing.T) {
	t.Parallel()
	busy, steal, err := machineTime("cpu  10 1 20 1000 5 2 3 7 0 0\ncpu0 1 2 3\n")
	if err != nil || busy != 36*tick || steal != 7*tick {
		t.Errorf("%v, %v, %v", busy, steal, err)
	}
	for _, bad := range []string{"", "cpu 1 2 3\n", "intr 1 2 3 4 5 6 7 8 9\n", "cpu a b c d e f g h\n"} {
		if _, _, err := machineTime(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// The time of a program that the bench has started is its own, also after the program has ended.
func TestOwnTime(t *testing.T) {
	t.Parallel()
	before := ownTime()
	c := exec.Command("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	used := c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	if grown := ownTime() - before; grown < used-2*tick {
		t.Errorf("it grew by %v, the program used %v", grown, used)
	}
	if machine, err := readClocks(); err != nil || machine.busy < machine.own {
		t.Errorf("%+v, %v", machine, err)
	}
}

// A disturbed round is measured again, up to a bound, and its samples are forgotten.
func TestDisturbedRounds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		loud            []bool // of each time that a round runs
		rounds, repeats int
		measured        int // times
		counts          int // disturbed rounds that count
	}{
		"quiet":             {make([]bool, 4), 3, 2, 3, 0},
		"one is disturbed":  {[]bool{false, true, false, false}, 3, 2, 4, 0},
		"too many":          {[]bool{true, true, true, true, true}, 3, 2, 5, 3},
		"disturbed at last": {[]bool{false, false, true, true, true}, 3, 2, 5, 1},
	} {
		times, now := 0, clocks{at: time.Now()}
		b := &bench{o: options{only: regexp.MustCompile("")}, figures: figures{samples: map[string][]sample{}}}
		b.repeats, b.clocks = c.repeats, func() (clocks, error) { return now, nil }
		p := piece{"a piece", func(time.Duration) (sample, error) {
			now.at = now.at.Add(time.Second)
			if c.loud[times] {
				now.busy += time.Second
			}
			times++
			return sample{Server: time.Duration(times)}, nil
		}}
		if err := b.rounds(c.rounds, []piece{p}); err != nil {
			t.Fatal(err)
		}
		loud := 0
		for _, n := range b.noise {
			if n.disturbed() {
				loud++
			}
		}
		if times != c.measured || loud != c.counts || len(b.samples["a piece"]) != c.rounds ||
			len(b.noise) != c.rounds || b.repeated != c.measured-c.rounds {
			t.Errorf("%s: measured %d times, %d disturbed rounds count, %+v", name, times, loud, b.figures)
		}
	}
}

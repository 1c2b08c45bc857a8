package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc.
const tick = 10 * time.Millisecond

// noise is the load of others during a round, as shares of all CPUs.
type noise struct {
	steal  float64 // taken by other machines on the same host
	others float64 // used by processes that the bench did not start
}

// quiet is the largest noise of a good round.
const quiet = .05

func (n noise) disturbed() bool { return n.steal+n.others > quiet }

// clocks are the CPU times of the machine and of the bench with everything that it has started.
type clocks struct {
	at               time.Time
	busy, steal, own time.Duration
}

// since returns the noise between two readings.
func (c clocks) since(before clocks, cpus int) noise {
	all := float64(c.at.Sub(before.at)) * float64(cpus)
	if all <= 0 {
		return noise{}
	}
	return noise{
		steal:  float64(c.steal-before.steal) / all,
		others: max(0, float64((c.busy-before.busy)-(c.own-before.own))/all),
	}
}

// readClocks reads the clocks of this machine.
func readClocks() (clocks, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return clocks{}, err
	}
	c := clocks{at: time.Now(), own: ownTime()}
	c.busy, c.steal, err = machineTime(string(text))
	return c, err
}

// machineTime reads the first line of /proc/stat, proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal.
func machineTime(text string) (busy, steal time.Duration, err error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, errors.New("/proc/stat does not begin with the times of all CPUs")
	}
	for i, field := range fields[1:9] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/stat: %w", err)
		}
		switch i {
		case 3, 4: // idle
		case 7:
			steal = time.Duration(n) * tick
		default:
			busy += time.Duration(n) * tick
		}
	}
	return busy, steal, nil
}

// ownTime returns the CPU time of this process and all its descendants, including those that have ended.
func ownTime() (own time.Duration) {
	parents, times := map[int]int{}, map[int]time.Duration{}
	folders, _ := filepath.Glob("/proc/[0-9]*")
	for _, folder := range folders {
		pid, _ := strconv.Atoi(filepath.Base(folder))
		stat := statOf(pid)
		parents[pid], _ = strconv.Atoi(stat[1])
		for _, field := range stat[11:15] { // utime, stime, and those of children that have ended
			n, _ := strconv.ParseInt(field, 10, 64)
			times[pid] += time.Duration(n) * tick
		}
	}
	for pid, used := range times {
		for p := pid; p > 1; p = parents[p] {
			if p == os.Getpid() {
				own += used
				break
			}
		}
	}
	return own
}

// quietly runs a round, and again while it was disturbed, as often as the run still may. It notes the noise of the last
// time.
func (b *bench) quietly(round func() error) error {
	for {
		before, err := b.clocks()
		if err != nil {
			return err
		}
		if err := round(); err != nil {
			return err
		}
		after, err := b.clocks()
		n := after.since(before, runtime.NumCPU())
		if err != nil || !n.disturbed() || b.repeats == 0 {
			b.noise = append(b.noise, n)
			return err
		}
		b.repeats--
		b.repeated++
		b.say("others used %.0f %% of the CPUs, %.0f %% were stolen: once more", 100*n.others, 100*n.steal)
	}
}

// noiseText says how quiet the machine was.
func (f *figures) noiseText() string {
	if len(f.noise) == 0 {
		return ""
	}
	var worst noise
	loud := 0
	for _, n := range f.noise {
		if n.steal+n.others > worst.steal+worst.others {
			worst = n
		}
		if n.disturbed() {
			loud++
		}
	}
	text := fmt.Sprintf(
		"Disturbed rounds that were measured again: %d. In the noisiest round that counts, other processes\n"+
			"used %.0f %% of the CPUs, and other machines %.0f %%.",
		f.repeated,
		100*worst.others,
		100*worst.steal,
	)
	if loud > 0 {
		text += fmt.Sprintf(" **%d of %d rounds that count were disturbed.**", loud, len(f.noise))
	}
	return text + "\n"
}

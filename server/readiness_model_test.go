package server

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// The time of the model: a key is published a month after its begin, and signs at least a day later.
const (
	modelLead    = 24 * time.Hour
	modelPublish = 30 * 24 * time.Hour
	day          = 24 * time.Hour
)

var modelBegin = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// modelProcess is one process that verifies tokens.
type modelProcess struct {
	fetches []time.Duration // since the begin of the model, in order
	unknown bool            // it fetches again at an unknown kid
	ends    time.Duration   // 0: never
}

// has reports whether the process has fetched the next key by a time.
func (p modelProcess) has(at time.Duration) bool {
	return slices.ContainsFunc(p.fetches, func(f time.Duration) bool { return f >= modelPublish && f <= at })
}

// alive reports whether the process runs at a time.
func (p modelProcess) alive(at time.Duration) bool {
	return len(p.fetches) > 0 && p.fetches[0] <= at && (p.ends == 0 || at < p.ends)
}

// modelVerifier is a simulated verifier: its processes, and what of their fetches the server sees.
type modelVerifier struct {
	kind      string
	processes []modelProcess
	seen      []time.Duration // nil: all fetches of the processes
	via       bool
	silent    bool // the verdict is silent, whatever happens
}

// modelSpan is a random duration, from least to most.
func modelSpan(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)+1))
}

// period is a random period, from minutes to most.
func period(r *rand.Rand, most time.Duration) time.Duration {
	all := []time.Duration{5 * time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, day, 36 * time.Hour}
	all = slices.DeleteFunc(all, func(p time.Duration) bool { return p > most })
	return all[r.IntN(len(all))]
}

// periodic makes a process that fetches at its start and then on a timer, with a little jitter.
func periodic(r *rand.Rand, every, start, end time.Duration) modelProcess {
	p := modelProcess{}
	for at := start; at < end; at += every + modelSpan(r, 0, every/50) {
		p.fetches = append(p.fetches, at)
	}
	return p
}

// recentStart is the start of a process: mostly before the publication, sometimes after it.
func recentStart(r *rand.Rand) time.Duration {
	if r.IntN(5) == 0 {
		return modelPublish + modelSpan(r, 0, day)
	}
	return modelPublish - modelSpan(r, 0, 20*day)
}

// modelKinds make a verifier that the model follows until a time.
var modelKinds = map[string]func(r *rand.Rand, end time.Duration) modelVerifier{
	"periodic": func(r *rand.Rand, end time.Duration) modelVerifier {
		return modelVerifier{processes: []modelProcess{periodic(r, period(r, 2*day), recentStart(r), end)}}
	},
	"unknown kid": func(r *rand.Rand, _ time.Duration) modelVerifier {
		return modelVerifier{processes: []modelProcess{{fetches: []time.Duration{recentStart(r)}, unknown: true}}}
	},
	"once": func(r *rand.Rand, _ time.Duration) modelVerifier {
		return modelVerifier{processes: []modelProcess{{fetches: []time.Duration{recentStart(r)}}}}
	},
	"few behind NAT": func(r *rand.Rand, end time.Duration) modelVerifier {
		return crowd(r, 2+r.IntN(2), period(r, 2*day), end)
	},
	"many behind NAT": func(r *rand.Rand, end time.Duration) modelVerifier {
		return crowd(r, 4+r.IntN(5), period(r, modelLead), end)
	},
	"once behind NAT": func(r *rand.Rand, end time.Duration) modelVerifier {
		v := modelVerifier{}
		for range 2 + r.IntN(4) {
			start := modelPublish - modelSpan(r, 0, 6*day)
			v.processes = append(v.processes, modelProcess{fetches: []time.Duration{start}})
		}
		return v
	},
	"rollout behind NAT": func(r *rand.Rand, end time.Duration) modelVerifier {
		v := modelVerifier{} // programs that fetch once; new ones replace the old within a day
		at := modelPublish + modelSpan(r, 0, 4*day)
		for range 2 + r.IntN(5) {
			old := modelProcess{fetches: []time.Duration{at - modelSpan(r, time.Hour, 20*day)}}
			old.ends = at + modelSpan(r, time.Second, day)
			v.processes = append(v.processes, old, modelProcess{fetches: []time.Duration{at + modelSpan(r, 0, day)}})
		}
		return v
	},
	"restarting": func(r *rand.Rand, end time.Duration) modelVerifier {
		every, apart := period(r, day), []time.Duration{time.Hour, 8 * time.Hour, 2 * day}[r.IntN(3)]
		v := modelVerifier{}
		for at := recentStart(r); at < end; {
			up := min(at+modelSpan(r, apart/2, 2*apart), end)
			p := periodic(r, every, at, up)
			p.ends = up
			v.processes = append(v.processes, p)
			at = up + time.Second
		}
		return v
	},
	"behind a CDN": func(r *rand.Rand, end time.Duration) modelVerifier {
		v := crowd(r, 1+r.IntN(3), period(r, day), end)
		all := v.fetches()
		for i, at := range all { // the cache asks only when its copy is too old
			if i == 0 || at-v.seen[len(v.seen)-1] > 5*time.Minute {
				v.seen = append(v.seen, at)
			}
		}
		v.via, v.silent = true, true
		return v
	},
	"silent": func(*rand.Rand, time.Duration) modelVerifier { return modelVerifier{silent: true} },
}

// crowd makes processes of the same software that share an address.
func crowd(r *rand.Rand, n int, every, end time.Duration) (v modelVerifier) {
	for range n {
		v.processes = append(v.processes, periodic(r, every, modelPublish-modelSpan(r, 0, 6*day), end))
	}
	return v
}

// fetches returns all fetches, in order.
func (v modelVerifier) fetches() (all []time.Duration) {
	for _, p := range v.processes {
		all = append(all, p.fetches...)
	}
	slices.Sort(all)
	return all
}

// observe returns what a server has seen of a verifier until a time.
func (v modelVerifier) observe(until time.Duration) []storage.Fetch {
	seen := v.seen
	if seen == nil {
		seen = v.fetches()
	}
	old := &keys.Published{Version: 1, KIDs: []string{"current"}, Signer: "current"}
	fresh := &keys.Published{Version: 2, KIDs: []string{"next", "current"}, Signer: "current"}
	f := storage.Fetch{FetchKey: storage.FetchKey{Handle: v.kind, Source: "192.0.2.1", Agent: "model"}}
	for _, at := range seen {
		set := old
		if at >= modelPublish {
			set = fresh
		}
		if at > until {
			break
		}
		if f.Count == 0 {
			f.FirstAt = storage.At(modelBegin.Add(at))
		}
		addFetch(&f, observedFetch{via: v.via, set: set, at: modelBegin.Add(at), address: netip.Addr{}})
	}
	if f.Count == 0 {
		return nil
	}
	return []storage.Fetch{f}
}

// judge returns the verdict on a verifier at a time.
func (v modelVerifier) judge(at time.Duration) keys.VerifierReading {
	active := storage.AtPtr(modelBegin)
	o := keys.Observed{
		Keys: []storage.SigningKey{
			{KID: "next", State: storage.KeyNext, PublishedAt: storage.At(modelBegin.Add(modelPublish))},
			{KID: "current", State: storage.KeyCurrent, ActivatedAt: active},
		},
		Verifiers: []storage.Verifier{{Name: v.kind, Handle: v.kind, Resource: "https://api.example.com"}},
		Fetches:   v.observe(at),
	}
	c := keys.Config{PublishLead: modelLead, JWKSMaxAge: 5 * time.Minute}
	return o.Judge(c, modelBegin.Add(at)).Verifiers[0]
}

// failsAt reports whether a process that ran at the verdict refuses tokens of the new key when it begins to sign.
func (v modelVerifier) failsAt(verdict, rotation time.Duration) bool {
	return slices.ContainsFunc(v.processes, func(p modelProcess) bool {
		return p.alive(verdict) && p.alive(rotation) && !p.has(rotation) && !p.unknown
	})
}

// right reports whether a verdict other than ready holds.
func (v modelVerifier) right(reading keys.VerifierReading, at, end time.Duration) bool {
	alive := func(p modelProcess) bool { return p.alive(at) }
	switch reading.Verdict {
	case keys.VerdictSilent:
		return v.silent || len(v.observe(at)) == 0
	case keys.VerdictWaiting: // by that time, the source has it, or everybody behind it, or it is clearly stuck
		by := reading.By.Sub(modelBegin) + time.Second
		then := v.judge(by)
		return by > end ||
			then.Verdict == keys.VerdictReady ||
			then.Verdict == keys.VerdictStuck ||
			reading.GotAt == nil && then.GotAt != nil
	case keys.VerdictStuck: // nobody who runs and lacks the key gets it by a timer
		return slices.ContainsFunc(v.processes, func(p modelProcess) bool {
			return alive(p) && !p.has(at) && len(p.fetches) == 1
		})
	}
	return true
}

// One that is called ready never refuses a token after the rotation. Every other verdict is right in at least 99 of 100
// cases.
func TestReadinessOfSimulatedVerifiers(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	const runs = 1000
	all, allWrong := map[keys.Verdict]int{}, map[keys.Verdict]int{}
	for kind, create := range modelKinds {
		counts, wrong := map[keys.Verdict]int{}, map[keys.Verdict]int{}
		for run := range runs {
			r := rand.New(rand.NewPCG(seed, uint64(run)))
			rotation := modelPublish + modelLead + modelSpan(r, 0, []time.Duration{day / 2, 10 * day}[r.IntN(2)])
			end := rotation + 2*day
			v := create(r, end)
			v.kind = kind
			at := modelPublish + modelSpan(r, time.Second, rotation-modelPublish)
			reading := v.judge(at)
			counts[reading.Verdict]++
			if reading.Verdict == keys.VerdictReady && v.failsAt(at, rotation) {
				t.Errorf("%s, run %d: ready at %v, and refuses at %v: %s", kind, run, at-modelPublish,
					rotation-modelPublish, describeModel(v))
			}
			if !v.right(reading, at, end) {
				wrong[reading.Verdict]++
			}
		}
		t.Logf("%-16s %v, wrong %v", kind, counts, wrong)
		for verdict, n := range counts {
			all[verdict] += n
			allWrong[verdict] += wrong[verdict]
		}
	}
	for verdict, n := range all {
		if 100*allWrong[verdict] > n {
			t.Errorf("%d of %d verdicts %s are wrong", allWrong[verdict], n, verdict)
		}
	}
}

// describeModel lists the fetches of each process around the publication.
func describeModel(v modelVerifier) (text string) {
	for _, p := range v.processes {
		var near []time.Duration
		for _, at := range p.fetches {
			if at > modelPublish-7*day && len(near) < 8 {
				near = append(near, (at - modelPublish).Round(time.Minute))
			}
		}
		text += fmt.Sprint(near, " ")
	}
	return text[:min(len(text), 400)]
}

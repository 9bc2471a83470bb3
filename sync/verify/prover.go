package verify

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/sync/value"
)

// Prover judges keys that somebody has reason to suspect, as Run does those that its
// walk finds: a difference that it tells of is proved. Safe for concurrent use.
type Prover struct{ walk *walk }

// Taken says what has become of a suspicion.
type Taken int

// What may.
const (
	Queued Taken = iota // the key will be judged
	Known               // it is being judged, or mended, already
	Full                // too many are
)

// Found is the verdict about a key.
type Found struct {
	Key     string
	Outcome Outcome
	Diff    value.Diff // what differs
	// Looked is when the look began that decided: what came later may be otherwise.
	Looked time.Time
}

// Outcome is what was found.
type Outcome int

// The outcomes.
const (
	Level     Outcome = iota // the key is the same on both sides, or follows
	Differing                // it differs for sure
	Undecided                // nobody can say, or it changes all the time
)

// watchedAgain is how often keys may be watched closely anew.
const watchedAgain = time.Minute

// NewProver returns one for a source database and its target. told hears of each
// suspicion once, by several goroutines; where the key differs and is repaired, before
// that is done. Of cfg, what is about walks has no meaning, nor have OnDiffer and
// Progress.
func NewProver(cfg Config, db int, told func(Found)) (*Prover, error) {
	cfg.OnDiffer, cfg.Progress = nil, nil
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("comparing single keys: %w", err)
	}
	if _, mapped := cfg.Databases[db]; !mapped {
		return nil, fmt.Errorf("comparing single keys: source database %d has no target", db)
	}
	w := newWalk(cfg, db)
	w.told = func(s *suspect, v verdict) {
		f := Found{Key: s.key, Diff: s.diff, Looked: s.looked, Outcome: Undecided}
		switch v {
		case equal, followed:
			f.Outcome = Level
		case differing:
			f.Outcome = Differing
		}
		told(f)
	}
	return &Prover{w}, nil
}

// Suspect has a key judged. It does not wait.
func (p *Prover) Suspect(key string) Taken {
	if p.walk.leaveOut(key) {
		return Full
	}
	s := &suspect{key: key, example: -1}
	s.anew()
	return p.walk.suspects.try(s)
}

// Run judges until ctx ends, which is no error, or a server cannot be asked for longer
// than that is waited for. What is not judged then is told to nobody.
func (p *Prover) Run(ctx context.Context) error {
	judges, jctx := errgroup.WithContext(ctx)
	for range p.walk.cfg.Parallel {
		judges.Go(func() error { return p.walk.judge(jctx) })
	}
	judges.Go(func() error {
		tick := time.NewTicker(watchedAgain)
		defer tick.Stop()
		for {
			select {
			case <-jctx.Done():
				return nil
			case <-tick.C:
				p.walk.mu.Lock()
				p.walk.watching = [2]int{}
				p.walk.mu.Unlock()
			}
		}
	})
	err := judges.Wait()
	p.walk.suspects.close(true)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

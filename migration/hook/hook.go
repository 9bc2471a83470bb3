// Package hook tells programs and HTTP servers of the operator's what happens in a migration.
// It owns their queues, their time limits and what they are told: JSON without secrets.
// It never keeps anything waiting but an attempt that asks for leave, and that not for long.
package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/crossfade/crossfade/config"
)

const (
	queued    = 256             // events that wait for a hook, at most
	lastWords = 2 * time.Second // for what is left when the process ends
)

// Event is what a hook is told. Names are stable.
type Event struct {
	Name      string    `json:"event"` // see config.HookEvents
	Time      time.Time `json:"time"`
	Migration string    `json:"migration"`
	Was       string    `json:"was,omitempty"` // the phase before
	Phase     string    `json:"phase"`
	Side      string    `json:"side"` // where the applications' commands go
	Epoch     uint64    `json:"epoch"`
	Token     uint64    `json:"token"`
	Source    string    `json:"source"` // addresses, without secrets
	Target    string    `json:"target"`
	// Verb is cutover or rollback when one is under way, or waits.
	Verb      string `json:"verb,omitempty"`
	DryRun    bool   `json:"dry_run,omitempty"`
	Rehearsal bool   `json:"rehearsal,omitempty"`
	Why       string `json:"why,omitempty"`
	// Report is of the attempt, with switched, aborted and rehearsed.
	Report any `json:"report,omitempty"`
	// Veto says that the answer counts.
	Veto bool `json:"veto,omitempty"`
}

// Hooks are all of them. The methods of a nil one do nothing; they may be called from
// any goroutine.
type Hooks struct {
	list []*one
	log  *slog.Logger
}

// one is a single hook.
type one struct {
	config.Told
	name  string
	queue chan []byte
	lost  lost
}

// lost counts events that found the queue full.
type lost struct {
	mu sync.Mutex
	n  int
}

// New returns hooks that tell nobody anything before Run.
func New(list []config.Told, log *slog.Logger) *Hooks {
	h := &Hooks{log: log}
	for i, t := range list {
		h.list = append(h.list, &one{Told: t, name: nameOf(i+1, t), queue: make(chan []byte, queued)})
	}
	return h
}

// Tell has all hooks told that want to know. It never blocks.
func (h *Hooks) Tell(e Event) {
	if h == nil {
		return
	}
	var text []byte
	for _, o := range h.list {
		if o.Veto || !slices.Contains(o.On, e.Name) {
			continue
		}
		if text == nil {
			text = encode(e)
		}
		select {
		case o.queue <- text:
		default:
			o.lost.mu.Lock()
			o.lost.n++
			n := o.lost.n
			o.lost.mu.Unlock()
			if n == 1 {
				h.log.Error("a hook is too slow: events are not told to it", "hook", o.name, "event", e.Name)
			}
		}
	}
}

// Ask asks the hooks with a veto at this event, one after another. The error is the
// first veto: a refusal, a failure, or no answer in time.
func (h *Hooks) Ask(ctx context.Context, e Event) error {
	if h == nil {
		return nil
	}
	e.Veto = true
	for _, o := range h.list {
		if !o.Veto || !slices.Contains(o.On, e.Name) {
			continue
		}
		began := time.Now()
		err := o.call(ctx, encode(e))
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		h.log.Info("a hook agrees", "hook", o.name, "event", e.Name, "took", time.Since(began).Round(time.Millisecond).String())
	}
	return nil
}

// Run delivers until ctx ends, and then for a moment what is left.
func (h *Hooks) Run(ctx context.Context) error {
	last, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lastWords, cancel) })
	defer stop()
	var all sync.WaitGroup
	for _, o := range h.list {
		all.Go(func() { h.deliver(ctx, last, o) })
	}
	<-ctx.Done()
	all.Wait()
	client.CloseIdleConnections()
	return nil
}

func (h *Hooks) deliver(ctx, last context.Context, o *one) {
	for {
		var text []byte
		select {
		case text = <-o.queue:
		case <-ctx.Done():
			select {
			case text = <-o.queue:
			default:
				return
			}
		}
		if err := o.call(last, text); err != nil {
			h.log.Error("a hook has failed; nothing waits for it", "hook", o.name, "error", err)
		}
		if last.Err() != nil {
			return
		}
		o.lost.mu.Lock()
		n := o.lost.n
		o.lost.n = 0
		o.lost.mu.Unlock()
		if n > 0 {
			h.log.Error("events were not told to a hook that is too slow", "hook", o.name, "events", n)
		}
	}
}

// call is one call within the hook's time.
func (o *one) call(ctx context.Context, text []byte) error {
	slow := fmt.Errorf("no answer within %v", o.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout, slow)
	defer cancel()
	var err error
	if len(o.Run) > 0 {
		err = run(ctx, o.Run, text)
	} else {
		err = post(ctx, o.URL.Reveal(), text)
	}
	if err != nil && errors.Is(context.Cause(ctx), slow) {
		return slow
	}
	return err
}

func encode(e Event) []byte {
	text, err := json.Marshal(e)
	if err != nil { // a report that is no JSON would be a mistake of ours
		e.Report = nil
		text, _ = json.Marshal(e)
	}
	return append(text, '\n')
}

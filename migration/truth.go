package migration

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// truth is what the servers say of a migration: the newest of their control keys. For one
// side to be the applications', that server has to say so, or to say nothing of having been
// left; and one that was left is fenced. So who can ask one of them only, and is misled by
// that, is refused there, see PROTOCOL §4.
type truth struct {
	rec    Record
	found  bool
	silent []error // of servers that could not be asked
}

// errTwoMigrations means that the control keys are of more than one.
var errTwoMigrations = errors.New("the servers tell of two migrations")

// readTruth asks both servers.
func readTruth(ctx context.Context, ids [2]*identity) (t truth, err error) {
	type told struct {
		e    store.Entry
		errs error
	}
	keys := []string{store.RecordKey, store.JournalKey}
	var answers [2][]told
	asked := make(chan router.Side, len(ids))
	for side, id := range ids {
		go func() {
			cctx, cancel := context.WithTimeout(ctx, id.timeout)
			defer cancel()
			for _, key := range keys {
				e, ok, err := store.Load(cctx, id.Pool().DB(0), key)
				if err != nil {
					answers[side] = append(answers[side], told{errs: fmt.Errorf("%s %s: %w", id.side, id.url, explainLogin(err))})
					break
				}
				if ok {
					answers[side] = append(answers[side], told{e: e})
				}
			}
			asked <- router.Side(side)
		}()
	}
	for range ids {
		<-asked
	}
	var last store.Entry // they are the same most of the time, and large
	for side := range answers {
		for _, a := range answers[side] {
			if a.errs != nil {
				t.silent = append(t.silent, a.errs)
				continue
			}
			if t.found && a.e.Token == last.Token && a.e.Seq == last.Seq && bytes.Equal(a.e.Data, last.Data) {
				continue
			}
			last = a.e
			r, err := decode(a.e)
			if err != nil {
				return truth{}, err
			}
			if t.found && r.ID != t.rec.ID {
				return truth{}, fmt.Errorf("reading the control records: %w, %s and %s; remove the keys of the one that is over (%s, %s)", errTwoMigrations, t.rec.ID, r.ID, store.RecordKey, store.JournalKey)
			}
			if !t.found || newer(r, t.rec) {
				t.rec, t.found = r, true
			}
		}
	}
	return t, nil
}

// decided returns where the applications' commands go by a record that was read on the
// servers; false is that a switch is under way, or that nobody has said yet which databases
// go where.
func (r Record) decided() (router.Route, bool) {
	if r.Map == nil || r.Phase == Committing || r.Phase.Switching() {
		return router.Route{}, false
	}
	dm, err := r.databases()
	if err != nil {
		return router.Route{}, false
	}
	return router.Route{Side: r.Side, Epoch: r.Epoch, Map: dm}, true
}

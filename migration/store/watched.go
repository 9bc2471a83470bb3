package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// Watched is a control key that a server watches for us, on a connection that is kept for
// it: what Watch has found holds for what Save writes, or nothing is written. A server
// that restarts in between has ended the connection. Not for concurrent use.
type Watched struct {
	key      string
	conn     *redis.Conn
	replicas replicas
}

// Watch is the first half of SaveReplicated: it looks whether e, or what comes after it,
// may be written at key. The second half, Save, takes a single round trip then. The caller
// closes it.
func Watch(ctx context.Context, c *redis.Client, key string, e Entry, ok Condition) (*Watched, error) {
	w := &Watched{key: key, conn: c.Conn()}
	if err := look(ctx, w.conn, key, e, w.replicas.counted(ok)); err != nil {
		w.Close(ctx)
		return nil, fmt.Errorf("watching %s: %w", key, err)
	}
	return w, nil
}

// Alone reports whether the server is known to have no replica.
func (w *Watched) Alone() bool {
	n, err := w.replicas.online()
	return err == nil && n == 0
}

// Save writes e, and has what also queues done in the same instant, or neither; then it
// waits for replicas as SaveReplicated does. How the commands of also went is theirs to say.
// It may be called once.
func (w *Watched) Save(ctx context.Context, e Entry, patience time.Duration, also func(redis.Pipeliner)) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("writing %s: %w", w.key, err)
	}
	var set *redis.StatusCmd
	_, err = w.conn.TxPipelined(ctx, func(p redis.Pipeliner) error {
		set = p.Set(ctx, w.key, text, 0)
		if also != nil {
			also(p)
		}
		return nil
	})
	if err != nil && set.Err() != nil { // otherwise it is of the other commands
		if errors.Is(err, redis.TxFailedErr) {
			err = ErrSuperseded
		}
		return fmt.Errorf("writing %s: %w", w.key, err)
	}
	if err := w.replicas.await(ctx, w.conn, patience); err != nil {
		return fmt.Errorf("writing %s: %w", w.key, err)
	}
	return nil
}

// Close gives the connection back. It may be called again.
func (w *Watched) Close(ctx context.Context) {
	if w == nil || w.conn == nil {
		return
	}
	_ = w.conn.Do(context.WithoutCancel(ctx), "UNWATCH").Err() // whoever gets it next watches nothing
	_ = w.conn.Close()
	w.conn = nil
}

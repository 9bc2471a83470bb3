package verify

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/value"
)

// pager reads the pages of one SCAN. A cursor means nothing to another process, which may have
// taken the port of the one that gave it while nothing was asked: so all pages are asked
// for on one connection, and where that is lost, the next one has to lead to the same
// process. Not for concurrent use.
type pager struct {
	c           *redis.Client
	match, kind string
	count       int

	cursor uint64 // 0 before the first page and behind the last one
	conn   *redis.Conn
	run    string // the run id of the process behind conn, "" where it does not tell
}

// next reads a page. It may be called again after an error: for the same page.
func (p *pager) next(ctx context.Context) ([]string, error) {
	if value.Clustered(p.c) { // whose client looks itself whose cursors it has
		return p.page(ctx, p.c)
	}
	if p.conn == nil {
		if err := p.connect(ctx); err != nil {
			return nil, err
		}
	}
	keys, err := p.page(ctx, p.conn)
	if value.Unknown(err) {
		p.close()
	}
	return keys, err
}

func (p *pager) connect(ctx context.Context) error {
	p.conn = p.c.Conn()
	run, err := runID(ctx, p.conn)
	if err != nil {
		p.close()
		return err
	}
	if p.cursor != 0 && (run == "" || run != p.run) {
		p.close()
		return errRestarted
	}
	p.run = run
	return nil
}

func (p *pager) page(ctx context.Context, c redis.Cmdable) ([]string, error) {
	keys, next, err := scanPage(ctx, c, p.cursor, p.match, &p.kind, p.count)
	if err == nil {
		p.cursor = next
	}
	return keys, err
}

// close gives the connection back.
func (p *pager) close() {
	if p.conn != nil {
		_ = p.conn.Close() // of one that is lost the pool has heard
		p.conn = nil
	}
}

// runID names the process that a connection leads to, or "" where it does not tell. An
// error means that the connection is lost.
func runID(ctx context.Context, c redis.Cmdable) (string, error) {
	text, err := c.Info(ctx, "server").Result()
	if value.Unknown(err) {
		return "", fmt.Errorf("asking which process it is: %w", err)
	}
	for line := range strings.Lines(text) {
		if id, ok := strings.CutPrefix(line, "run_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", nil
}

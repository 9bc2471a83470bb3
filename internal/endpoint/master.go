package endpoint

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/crossfade/crossfade/config"
)

// mostMasters is how many servers are tried that are said to be the master, one after
// the other: what was known may be old, and what the sentinels say too, for a moment.
const mostMasters = 3

// dialMaster is Dial to a server that sentinels watch.
func dialMaster(ctx, bounded context.Context, e config.Endpoint) (net.Conn, error) {
	if e.Finder == nil {
		return nil, fmt.Errorf("connecting to %s: nobody was told to ask its sentinels", e)
	}
	var last string
	var failed error
	for range mostMasters {
		address, err := e.Finder.Find(bounded)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, fmt.Errorf("connecting to %s: %w", e, context.Cause(ctx))
		case err != nil:
			return nil, fmt.Errorf("connecting to %s: %w", e, err)
		case address == last:
			return nil, failed
		}
		conn, err := dialAt(ctx, bounded, e, address)
		if err == nil {
			return conn, nil
		}
		failed = fmt.Errorf("%w, the master of %s", err, e)
		if bounded.Err() != nil {
			return nil, failed
		}
		e.Finder.Doubt(address)
		last = address
	}
	return nil, failed
}

// dialAt connects to the server at address, if it is the master.
func dialAt(ctx, bounded context.Context, e config.Endpoint, address string) (net.Conn, error) {
	start, at := time.Now(), e.At(address)
	conn, err := connect(ctx, bounded, at, start)
	if err != nil {
		return nil, err
	}
	if err := e.Finder.Keep(bounded, conn.(*net.TCPConn), address); err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("connecting to %s: %w", at, err)
	}
	return handshake(ctx, bounded, at, start, conn)
}

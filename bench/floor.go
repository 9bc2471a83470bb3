package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/sync/conn"
	"golang.org/x/sync/errgroup"
)

// floorVerb makes this program copy with no more than it takes: bench -floor …
const floorVerb = "-floor"

const floorBatch = 256 // keys in a pipeline

func selfPath() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding this program: %w", err)
	}
	return self, nil
}

// floor copies database 0: SCAN, DUMP and RESTORE and nothing else. No expiry, no
// look at what is big or has changed. Then it waits to be ended, so that what it
// has used can be read.
func floor(ctx context.Context, args []string) error {
	var from, to string
	var workers int
	flags := flag.NewFlagSet("floor", flag.ContinueOnError)
	flags.StringVar(&from, "from", "", "URL")
	flags.StringVar(&to, "to", "", "URL")
	flags.IntVar(&workers, "workers", 4, "pipelines at the same time")
	if err := flags.Parse(args); err != nil {
		return err
	}
	source, err := floorPool(from)
	if err != nil {
		return err
	}
	target, err := floorPool(to)
	if err != nil {
		return err
	}
	group, copyCtx := errgroup.WithContext(ctx)
	keys := make(chan []string, workers)
	group.Go(func() error {
		defer close(keys)
		_, err := scan(copyCtx, source.DB(0), 1000, floorBatch, keys, nil)
		return err
	})
	for range workers {
		group.Go(func() error { return floorWorker(copyCtx, source, target, keys) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func floorPool(url string) (*conn.Pool, error) {
	e, err := config.Server{URL: config.Secret(url)}.Endpoint()
	if err != nil {
		return nil, err
	}
	return conn.New(e, "floor", 10*time.Second), nil
}

// floorWorker lets the target work on a batch while the source works on the next.
func floorWorker(ctx context.Context, source, target *conn.Pool, keys <-chan []string) error {
	src, err := source.Wire(ctx, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := target.Wire(ctx, 0)
	if err != nil {
		return err
	}
	defer dst.Close()
	owed := 0
	for {
		list, more := <-keys
		for _, k := range list {
			src.Command("DUMP", k)
		}
		if err := src.Flush(); err != nil {
			return err
		}
		for ; owed > 0; owed-- {
			if err := dst.Status(); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		for _, k := range list {
			n, err := src.Bulk()
			if err != nil {
				return err
			}
			if n < 0 {
				return errors.New("a key went away")
			}
			dst.Begin(4)
			dst.Arg("RESTORE")
			dst.Arg(k)
			dst.Arg("0")
			if err := dst.Relay(src, n); err != nil {
				return err
			}
			owed++
			if dst.Full() {
				if err := dst.Flush(); err != nil {
					return err
				}
			}
		}
		if err := dst.Flush(); err != nil {
			return err
		}
	}
}

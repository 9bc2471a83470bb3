package config

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

// maxPEM bounds what is read of a certificate or key file, in bytes.
const maxPEM = 1 << 20

// reloaded is a value made of files, and made again when what they hold has
// changed. The files are looked at when the value is asked for, at most once in
// every. New files that are of no use leave the value as it was. Safe for
// concurrent use.
type reloaded[T any] struct {
	what  string // for the log
	files []string
	build func(contents [][]byte) (T, error)
	every time.Duration

	mu     sync.Mutex
	log    *slog.Logger // nil: nothing is told
	looked time.Time
	seen   [][]byte // what value was made of; nil before the first look
	failed string   // the error of the last look, told once
	value  T
}

// lookEvery is how often files are looked at, at most.
const lookEvery = time.Second

// readAll reads files; a name that is empty gives nothing.
func readAll(files []string) ([][]byte, error) {
	contents := make([][]byte, len(files))
	for i, name := range files {
		if name == "" {
			continue
		}
		var err error
		if contents[i], err = readPEM(name); err != nil {
			return nil, err
		}
	}
	return contents, nil
}

func readPEM(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxPEM+1))
	if err == nil && len(data) > maxPEM {
		err = fmt.Errorf("%q is over %d bytes", name, maxPEM)
	}
	return data, err
}

func (r *reloaded[T]) reportTo(log *slog.Logger) {
	r.mu.Lock()
	r.log = log
	r.mu.Unlock()
}

// current returns the value of what the files hold now.
func (r *reloaded[T]) current() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Sub(r.looked) < r.every {
		return r.value
	}
	r.looked = now
	contents, err := readAll(r.files)
	if err == nil {
		if same(contents, r.seen) {
			r.failed = ""
			return r.value
		}
		first := r.seen == nil
		var value T
		if value, err = r.build(contents); err == nil {
			r.value, r.seen, r.failed = value, contents, ""
			if r.log != nil && !first {
				r.log.Info("certificates were read again", "of", r.what)
			}
			return r.value
		}
	}
	if text := err.Error(); text != r.failed {
		r.failed = text
		if r.log != nil {
			r.log.Warn("changed certificates cannot be used; the ones before stay in use", "of", r.what, "err", err)
		}
	}
	return r.value
}

func same(a, b [][]byte) bool { return slices.EqualFunc(a, b, bytes.Equal) }

package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// listenUnix makes a socket that only this user can open. The file of a dead
// process is replaced; one that somebody answers on is not, nor is any other file.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	unlock := lockFolder(filepath.Dir(path))
	defer unlock()
	if err := clearStale(ctx, path); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		// Before bind, so that the file never exists with another mode.
		if err2 := raw.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); err2 != nil {
			return err2
		}
		return err
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil { // where Fchmod of a socket says nothing
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// lockFolder keeps two that start at the same moment from removing each other's
// socket. Without the right to lock, it does without.
func lockFolder(dir string) (unlock func()) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {}
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return func() {}
	}
	return func() { _ = f.Close() }
}

func clearStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is no socket", path)
	}
	dialer := net.Dialer{Timeout: time.Second}
	c, err := dialer.DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		_ = c.Close()
		return errors.New("another process listens there")
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("finding out whether somebody listens there already: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the socket that a dead process left: %w", err)
	}
	return nil
}

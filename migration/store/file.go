package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// File is the state file beside the sidecar. One process holds it at a time. Its methods
// are safe for concurrent use.
type File struct {
	path string
	lock *os.File

	mu    sync.Mutex // held while the file is written or synced
	brisk *os.File   // where what need not be durable is saved; nil: into the file itself
	at    int64      // in it
	newer bool       // it has what was saved last
}

// OpenFile takes the file for this process. The lock is the kernel's and ends
// with the process, however it ends.
func OpenFile(path string) (*File, error) {
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the state file %s: %w; choose a place that can be written with --state", path, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("opening the state file %s: another crossfade is running with it; give each sidecar a --state of its own", path)
		}
		return nil, fmt.Errorf("locking the state file %s: %w", path, err)
	}
	return &File{path: path, lock: lock}, nil
}

// Path returns where the file is.
func (f *File) Path() string { return f.path }

// Load reads the newest entry; ok is false when there is no file.
func (f *File) Load() (e Entry, ok bool, err error) {
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("reading the state file: %w", err)
	}
	err = json.Unmarshal(text, &e)
	if err == nil && e.ID == "" {
		err = errors.New("it names no migration")
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("reading the state file %s: it is not one of ours, or damaged (%w); when it is certain that no cutover was begun, move it away and start again", f.path, err)
	}
	return f.newest(e), true, nil
}

// Save replaces the file as a whole. With durable it returns only once the disk has it for
// good. Without, e survives the end of the process, and behind that of the machine there is
// either e or what was saved before; it waits for the disk too, but between Brisk and Calm.
func (f *File) Save(e Entry, durable bool) error {
	if err := f.save(e, durable); err != nil {
		return fmt.Errorf("writing the state file %s: %w", f.path, err)
	}
	return nil
}

func (f *File) save(e Entry, durable bool) error {
	text, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !durable && f.saveBriskly(e) {
		return nil
	}
	f.newer = false
	tmp, err := os.OpenFile(f.path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = tmp.Write(append(text, '\n'))
	if err == nil {
		err = tmp.Sync() // or some file systems have an empty file there behind a loss of power
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.path+".tmp", f.path); err != nil {
		return err
	}
	if !durable {
		return nil
	}
	return syncAt(filepath.Dir(f.path))
}

// Settle begins to make durable what was saved last, and returns at once; a Save that
// comes behind it waits for the disk. done is called with what came of it.
func (f *File) Settle(done func(error)) {
	f.mu.Lock()
	go func() {
		defer f.mu.Unlock()
		err := f.sync()
		if err != nil {
			err = fmt.Errorf("syncing the state file %s: %w", f.path, err)
		}
		done(err)
	}()
}

// sync has the disk take what was saved last.
func (f *File) sync() error {
	if f.newer {
		return dataSync(f.brisk)
	}
	if err := syncAt(f.path); err != nil {
		return err
	}
	return syncAt(filepath.Dir(f.path))
}

// syncAt has the disk take a file, or a folder's names.
func syncAt(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close gives the file free, once the disk has what Settle has begun with.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closeBrisk()
	return f.lock.Close()
}

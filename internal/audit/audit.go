// Package audit keeps who did what when: lines of JSON in a file, and the last ones in memory.
// It owns the form of a line, the file's rotation (a new file at its path is noticed) and its syncing.
// It never keeps anybody from doing what is to be noted: a disk that takes nothing is told in the log.
package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Kept is how many entries are remembered.
const Kept = 200

// syncAfter is how long an entry may wait to be synced: a switch is over by then, and
// has not waited for the same disk.
const syncAfter = 2 * time.Second

// Entry is one line. Names are stable.
type Entry struct {
	Time time.Time `json:"time"`
	// Event is "asked" and "answered" for a verb, "phase" for a transition, "waiting" and
	// "dropped" for a switch that waits, "hook" for one that was asked or has failed,
	// "started" and "stopped" for the process.
	Event string `json:"event"`
	Who   *Who   `json:"who,omitempty"`

	Verb   string          `json:"verb,omitempty"`
	Asked  json.RawMessage `json:"asked,omitempty"`  // the request's body
	Result string          `json:"result,omitempty"` // ok, refused or failed
	MS     float64         `json:"ms,omitempty"`     // that it took

	From  string `json:"from,omitempty"` // phases
	To    string `json:"to,omitempty"`
	Side  string `json:"side,omitempty"`
	Epoch uint64 `json:"epoch,omitempty"`
	Token uint64 `json:"token,omitempty"`

	Why string `json:"why,omitempty"`
}

// Who is the operator as far as the door can tell.
type Who struct {
	User    string  `json:"user,omitempty"` // of the process that asked, on a unix socket
	UID     *uint32 `json:"uid,omitempty"`
	PID     int32   `json:"pid,omitempty"`
	Address string  `json:"address,omitempty"` // on a port
	Token   bool    `json:"token,omitempty"`   // the admin token was shown
	// Certificate is the name in the one that was shown.
	Certificate string `json:"certificate,omitempty"`
	Page        bool   `json:"page,omitempty"` // by the dashboard
}

// String names them for people.
func (w *Who) String() string {
	if w == nil {
		return ""
	}
	name := w.Address
	switch {
	case w.Certificate != "":
		name = w.Certificate + " at " + w.Address
	case w.User != "":
		name = w.User
	case w.UID != nil:
		name = fmt.Sprintf("uid %d", *w.UID)
	}
	if w.Page {
		name += " (dashboard)"
	}
	return name
}

// Log is an audit log. The methods of a nil one do nothing; they may be called from
// any goroutine.
type Log struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // guards what follows; held over writing, not over syncing
	file   *os.File
	last   []Entry
	failed string // told once

	syncing bool // somebody is about to; guarded by mu
	syncs   sync.WaitGroup
	closing chan struct{}
}

// Open opens the file at path, makes it if it is not there, and reads its last
// entries.
func Open(path string, log *slog.Logger) (*Log, error) {
	l := &Log{path: path, log: log, closing: make(chan struct{})}
	if err := l.reopen(); err != nil {
		return nil, fmt.Errorf("opening the audit log: %w; choose another place with audit.file", err)
	}
	l.last = tail(l.file)
	return l, nil
}

// reopen opens what is at path now.
func (l *Log) reopen() error { // with mu held, or before anybody else is there
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file = file
	// A line that a crash has torn must not swallow the next one.
	if size, err := file.Seek(0, io.SeekEnd); err == nil && size > 0 {
		end := make([]byte, 1)
		if _, err := file.ReadAt(end, size-1); err == nil && end[0] != '\n' {
			_, err = file.Write([]byte{'\n'})
			return err
		}
	}
	return nil
}

// tail reads the last entries of a file.
func tail(file *os.File) []Entry {
	const most = 256 << 10 // bytes
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil
	}
	text := make([]byte, min(size, most))
	if _, err := file.ReadAt(text, size-int64(len(text))); err != nil {
		return nil
	}
	if size > most {
		_, text, _ = bytes.Cut(text, []byte{'\n'})
	}
	var list []Entry
	for line := range bytes.Lines(text) {
		var e Entry
		if json.Unmarshal(line, &e) == nil && e.Event != "" {
			list = append(list, e)
		}
	}
	return list[max(0, len(list)-Kept):]
}

// Add writes an entry and has it synced within seconds. It does not wait for the
// disk.
func (l *Log) Add(e Entry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write(e)
	if !l.syncing {
		l.syncing = true
		l.syncs.Go(l.sync)
	}
}

// AddSynced is Add that returns once the disk has the entry.
func (l *Log) AddSynced(e Entry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	l.write(e)
	file := l.file
	l.mu.Unlock()
	l.note(file.Sync())
}

func (l *Log) sync() {
	select {
	case <-time.After(syncAfter):
	case <-l.closing:
	}
	l.mu.Lock()
	file := l.file
	l.syncing = false // what is added from now on has its own
	l.mu.Unlock()
	l.note(file.Sync())
}

func (l *Log) write(e Entry) { // with mu held
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if len(l.last) >= 2*Kept {
		l.last = append([]Entry(nil), l.last[len(l.last)-Kept:]...)
	}
	l.last = append(l.last, e)
	text, err := json.Marshal(e)
	if err == nil {
		err = l.follow()
	}
	if err == nil {
		_, err = l.file.Write(append(text, '\n'))
	}
	l.noted(err)
	if err != nil {
		l.log.Warn("an entry that is not in the audit log", "entry", string(text))
	}
}

// follow opens the path anew when the file there is another one: it was rotated.
func (l *Log) follow() error { // with mu held
	there, err := os.Stat(l.path)
	if err == nil {
		var ours os.FileInfo
		if ours, err = l.file.Stat(); err == nil && os.SameFile(there, ours) {
			return nil
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return l.reopen()
}

func (l *Log) note(err error) {
	if errors.Is(err, os.ErrClosed) { // rotated meanwhile
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noted(err)
}

func (l *Log) noted(err error) { // with mu held
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != l.failed {
		l.log.Error("the audit log cannot be written; what it should hold is in this log", "file", l.path, "error", err)
	}
	l.failed = text
}

// Last returns the last n entries, the oldest first.
func (l *Log) Last(n int) []Entry {
	if l == nil {
		return []Entry{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Entry{}, l.last[max(0, len(l.last)-min(n, Kept)):]...)
}

// Close syncs and closes the file. Nothing may be added afterwards.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	close(l.closing)
	l.syncs.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.file.Sync(), l.file.Close())
}

// Package audit keeps who did what when: lines of JSON in a file, and the last ones in memory.
// It owns the form of a line, the file's rotation (a new file at its path is noticed) and its syncing.
// It never keeps anybody from doing what is to be noted: a disk that takes nothing, or does not
// come back, is told in the log.
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

const (
	writePatience = 50 * time.Millisecond // how long an entry waits for the system to take it
	syncPatience  = 3 * time.Second       // … and for the disk
	mostQueued    = 4 << 20               // bytes of entries that wait for a disk that does not come back
)

// Entry is one line. Names are stable.
type Entry struct {
	Time time.Time `json:"time"`
	// Event is "asked" and "answered" for a verb, "phase" for a transition, "switched",
	// "aborted" and "rehearsed" for the end of an attempt, "waiting" and "dropped" for a switch
	// that waits, "started" and "stopped" for the process.
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
	disk disk

	mu      sync.Mutex // guards what follows; never held over what the disk may keep waiting
	file    *os.File   // made anew by the writer only
	last    []Entry
	failed  string   // told once
	queue   []*entry // to be written
	size    int      // bytes in it
	synced  []*entry // written, and somebody waits for the disk to have them
	late    bool     // the disk has kept somebody waiting for too long, and has done nothing since
	syncing bool     // the disk is at it
	closing bool

	toWrite, toSync chan struct{} // there is something in the queue, something written
	ended           chan struct{} // nothing is left to be written and synced
}

// entry is one on its way to the disk.
type entry struct {
	text    []byte
	done    chan struct{} // closed once it is written, or synced where that is asked for
	durable bool
}

// disk is what may take its time.
type disk struct {
	write func(*os.File, []byte) (int, error)
	sync  func(*os.File) error
}

// Open opens the file at path, makes it if it is not there, and reads its last
// entries.
func Open(path string, log *slog.Logger) (*Log, error) {
	return openOn(disk{(*os.File).Write, (*os.File).Sync}, path, log)
}

func openOn(d disk, path string, log *slog.Logger) (*Log, error) {
	l := &Log{path: path, log: log, disk: d, toWrite: make(chan struct{}, 1), toSync: make(chan struct{}, 1), ended: make(chan struct{})}
	file, err := l.open()
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w; choose another place with audit.file", err)
	}
	l.file, l.last = file, tail(file)
	go l.writes()
	go l.syncs()
	return l, nil
}

// open opens what is at path now.
func (l *Log) open() (*os.File, error) {
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// A line that a crash has torn must not swallow the next one.
	if size, err := file.Seek(0, io.SeekEnd); err == nil && size > 0 {
		end := make([]byte, 1)
		if _, err := file.ReadAt(end, size-1); err == nil && end[0] != '\n' {
			if _, err := file.Write([]byte{'\n'}); err != nil {
				return nil, errors.Join(err, file.Close())
			}
		}
	}
	return file, nil
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
// disk, and for the system's memory of it only as long as a switch can bear.
func (l *Log) Add(e Entry) { l.add(e, false, writePatience) }

// AddSynced is Add that returns once the disk has the entry, or has kept it waiting for too
// long: the entry is written in its turn when the disk comes back.
func (l *Log) AddSynced(e Entry) { l.add(e, true, syncPatience) }

func (l *Log) add(e Entry, durable bool, patience time.Duration) {
	if l == nil {
		return
	}
	on := l.put(e, durable)
	if on == nil {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-on.done:
	case <-timer.C:
		l.isLate(patience)
	}
}

// put remembers an entry and puts it into the queue. It returns nil where nobody is to wait
// for it.
func (l *Log) put(e Entry, durable bool) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if len(l.last) >= 2*Kept {
		l.last = append([]Entry(nil), l.last[len(l.last)-Kept:]...)
	}
	l.last = append(l.last, e)
	text, err := json.Marshal(e)
	if err != nil {
		l.noted(err)
		return nil
	}
	if l.size+len(text) > mostQueued || l.closing {
		l.isMissing(text)
		return nil
	}
	on := &entry{text: append(text, '\n'), done: make(chan struct{}), durable: durable}
	l.queue, l.size = append(l.queue, on), l.size+len(text)
	wake(l.toWrite)
	if l.late {
		return nil
	}
	return on
}

// isMissing has the other log hold what this one cannot.
func (l *Log) isMissing(text []byte) {
	l.log.Warn("an entry that is not in the audit log", "entry", string(bytes.TrimSuffix(text, []byte{'\n'})))
}

// isLate tells, once, that the disk has kept somebody waiting for too long.
func (l *Log) isLate(patience time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.late {
		return
	}
	l.late = true
	l.log.Error("the disk does not take the audit log: verbs and switches go on, and what is to be noted waits in memory; "+
		"look after the disk, or choose another place with audit.file", "file", l.path, "waited", patience.String())
}

// isBack is the end of isLate: the disk has done something.
func (l *Log) isBack() { // with mu held
	if l.late {
		l.late = false
		l.log.Info("the disk takes the audit log again", "file", l.path)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// writes writes what is in the queue, in its order, until the log is closed.
func (l *Log) writes() {
	defer close(l.toSync)
	for range l.toWrite {
		for {
			l.mu.Lock()
			if len(l.queue) == 0 {
				closing := l.closing
				l.mu.Unlock()
				if closing {
					return
				}
				break
			}
			e := l.queue[0]
			l.mu.Unlock()
			err := l.write(e.text)
			l.mu.Lock()
			if !l.syncing && len(l.synced) == 0 { // or else it is for that to say
				l.isBack()
			}
			l.queue, l.size = l.queue[1:], l.size-(len(e.text)-1)
			l.noted(err)
			if err != nil {
				l.isMissing(e.text)
			}
			if e.durable {
				l.synced = append(l.synced, e)
			} else {
				close(e.done)
			}
			l.mu.Unlock()
			wake(l.toSync)
		}
	}
}

// syncs has the disk take what was written: soon, or at once where somebody waits for it.
func (l *Log) syncs() {
	defer close(l.ended)
	for more := true; more; {
		if _, more = <-l.toSync; more {
			more = l.untilDue()
		}
		l.mu.Lock()
		file, waiting := l.file, l.synced
		l.synced, l.syncing = nil, true
		l.mu.Unlock()
		err := l.disk.sync(file)
		l.mu.Lock()
		l.syncing = false
		l.isBack()
		if !errors.Is(err, os.ErrClosed) { // rotated meanwhile
			l.noted(err)
		}
		for _, e := range waiting {
			close(e.done)
		}
		l.mu.Unlock()
	}
}

// untilDue waits until what was written is to be synced. False is that nothing more comes.
func (l *Log) untilDue() bool {
	timer := time.NewTimer(syncAfter)
	defer timer.Stop()
	for {
		l.mu.Lock()
		waits := len(l.synced) > 0
		l.mu.Unlock()
		if waits {
			return true
		}
		select {
		case _, more := <-l.toSync:
			if !more {
				return false
			}
		case <-timer.C:
			return true
		}
	}
}

// write writes a line to what is at the path now. It is the writer's.
func (l *Log) write(line []byte) error {
	if err := l.follow(); err != nil {
		return err
	}
	_, err := l.disk.write(l.file, line)
	return err
}

// follow opens the path anew when the file there is another one: it was rotated.
func (l *Log) follow() error {
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
	file, err := l.open()
	if err != nil {
		return err
	}
	l.mu.Lock()
	old := l.file
	l.file = file
	l.mu.Unlock()
	_ = old.Close()
	return nil
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

// Close syncs and closes the file. Nothing may be added afterwards. What the disk does not
// take in time is in the other log.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	wake(l.toWrite)
	select {
	case <-l.ended:
		return l.file.Close()
	case <-time.After(syncPatience):
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.queue {
		l.isMissing(e.text)
	}
	return fmt.Errorf("syncing the audit log %s: the disk has not answered within %v", l.path, syncPatience)
}

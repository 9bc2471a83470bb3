package pipe

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// askBytes is about how many bytes of keys are asked for at a time.
const askBytes = 1 << 20

// ask asks the source for expiries and payloads.
//
// Expiry and value are two commands, not one transaction: MULTI and EXEC would
// make four of them, and half of what a small key costs the source. When another
// client changes a key in between, the copy has a value and an expiry that never
// were together; but that change is an event that comes behind it, so the key is
// dirty and copied again before anybody may rely on it (PROTOCOL.md, 2).
//
// It asks for the keys from from on, as far as they are about askBytes of memory on the
// source, and returns where it has stopped. A server runs all that lies in a socket at
// one go, and holds the answers: nobody else is served meanwhile.
func (p *Pipe) ask(j *Job, from int, belated bool) (to int) {
	if from == 0 {
		j.old = p.ways.noExpireTime.Load()
	}
	var sum int64
	for to = from; to < len(j.Keys) && sum < askBytes; to++ {
		i, k := to, j.Keys[to]
		if j.Outcomes[i].Err != nil || (j.ways[i] == late) != belated {
			continue
		}
		sum += max(1, j.weights[i])
		src := p.from.For(k)
		if !j.none {
			askExpiry(src, k, j.old)
		}
		if j.ways[i] == short {
			src.About("GETRANGE", k, "0", lastOfShort)
		} else {
			src.About("DUMP", k)
		}
		if j.kinds != nil && j.Outcomes[i].Err == nil {
			src.About("TYPE", k)
		}
	}
	return to
}

// rest asks for the keys from from on and passes them on. While the answers of one
// round are read the source has the next.
func (p *Pipe) rest(j *Job, from int, belated bool) (more bool, err error) {
	to := p.ask(j, from, belated)
	for from < to {
		if err := p.src.Flush(); err != nil {
			return more, err
		}
		next := p.ask(j, to, belated)
		if err := p.src.Flush(); err != nil {
			return more, err
		}
		late, err := p.relay(j, from, to, belated)
		if more = more || late; err != nil {
			return more, err
		}
		from, to = to, next
	}
	return more, nil
}

// again asks once more for the keys of j that turned out to be no short strings.
func (p *Pipe) again(j *Job) error {
	p.askSizes(j, late)
	if err := p.src.Flush(); err != nil {
		return err
	}
	if err := p.measure(j, late); err != nil {
		return err
	}
	_, err := p.rest(j, 0, true)
	return err
}

// relay reads what was asked for from from to to, of the keys that are late or of the
// others, and passes it on to the target. more says that some of the others have become
// late.
func (p *Pipe) relay(j *Job, from, to int, belated bool) (more bool, err error) {
	if j.to == nil {
		j.to = p.dst.Lines()
	}
	for i := from; i < to; i++ {
		if j.Outcomes[i].Err != nil || (j.ways[i] == late) != belated {
			continue
		}
		src, dst := p.from.For(j.Keys[i]), j.to.For(j.Keys[i])
		expire, refused := int64(noExpiry), error(nil)
		if !j.none {
			if expire, refused, err = expiry(src, j.old); err != nil {
				return more, err
			}
		}
		switch {
		case j.ways[i] == short:
			err = p.relayShort(src, dst, j, i, expire, refused)
			more = more || j.ways[i] == late
		case j.kinds != nil:
			err = p.relaySorted(src, dst, j, i, expire, refused)
		default:
			err = p.relayDump(src, dst, j, i, expire, refused)
		}
		if err == nil && dst.Full() {
			err = dst.Flush()
		}
		if err != nil {
			return more, err
		}
	}
	return more, p.dst.Flush()
}

// relayShort passes on what GETRANGE has read. Nothing is what it reads of an empty
// string, and where there is no key.
func (p *Pipe) relayShort(src, dst *conn.Wire, j *Job, i int, expire int64, refused error) error {
	k := j.Keys[i]
	size, err := src.Bulk()
	if errors.As(err, new(conn.Refusal)) {
		switch {
		case p.displaced(src, j, i, err):
			return nil
		case strings.HasPrefix(err.Error(), "WRONGTYPE"):
			p.ways.kinds.learn(k, false)
		case value.Lacks(err):
			p.ways.noShort.Store(true)
		}
		p.unknowable(refused)
		j.ways[i] = late
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case refused == nil && expire != noKey && size > 0 && size < shortString:
		j.sent[i] = set
		j.Outcomes[i].Bytes = size
		if expire < 0 {
			dst.Begin(3)
		} else {
			j.sent[i] = setPXAT
			dst.Begin(5)
		}
		dst.Arg("SET")
		dst.Key(k)
		err := dst.Relay(src, size)
		if expire >= 0 {
			dst.Arg("PXAT")
			dst.Number(max(1, expire)) // SET does not take 0, which is as long ago
		}
		return err
	case refused == nil && expire == noKey && size == 0:
		p.remove(dst, j, i)
	default:
		if size >= shortString {
			p.ways.kinds.learn(k, false)
		}
		p.unknowable(refused)
		j.ways[i] = late
	}
	return src.Skip(size)
}

// unknowable notes where the source does not know PEXPIRETIME.
func (p *Pipe) unknowable(refused error) {
	if refused != nil && value.Lacks(refused) {
		p.ways.noExpireTime.Store(true)
	}
}

// mostPayload is up to how many bytes a payload is passed on: of a key that is larger than
// it was taken for. A server takes no argument above 512 MiB (proto-max-bulk-len) and closes
// the connection, and all that is under way on it is lost, each time.
const mostPayload = 64 << 20

// beyond reports whether a payload is not passed on.
func (w *Ways) beyond(size int64) bool { return size > cmp.Or(w.bound, mostPayload) }

// tooBig is the outcome of a key whose payload is not passed on: it is copied in chunks.
func tooBig(key string, src *conn.Wire, size int64) error {
	return fmt.Errorf("copying key %q from %s: %w: %d bytes", key, src, value.ErrTooBig, size)
}

// relayDump passes on what DUMP has read.
func (p *Pipe) relayDump(src, dst *conn.Wire, j *Job, i int, expire int64, refused error) error {
	k := j.Keys[i]
	if refused != nil && !j.old && value.Lacks(refused) {
		p.unknowable(refused) // for the next job: this one is read as it was asked for
		refused = ErrChanged
	}
	size, err := src.Bulk()
	if errors.As(err, new(conn.Refusal)) {
		if p.displaced(src, j, i, err) {
			return nil
		}
		if refused == nil {
			refused = value.Forbids(err)
		}
		size, err = 0, nil
	} else if err != nil {
		return err
	}
	switch {
	case refused == nil && p.ways.beyond(size):
		j.Outcomes[i].Err = tooBig(k, src, size)
		return src.Skip(size)
	case refused != nil:
		if size > 0 {
			err = src.Skip(size)
		}
		j.Outcomes[i].Err = fmt.Errorf("reading key %q from %s: %w", k, src, refused)
		return err
	case size < 0:
		p.remove(dst, j, i)
		return nil
	case expire == noKey: // it came between the two questions
		j.Outcomes[i].Err = fmt.Errorf("reading key %q from %s: %w", k, src, ErrChanged)
		return src.Skip(size)
	}
	if typ, err := src.Peek(); err != nil {
		return err
	} else {
		p.ways.kinds.learn(k, typ == typeString && size < shortString)
	}
	j.Outcomes[i].Bytes = size
	p.beginRestore(dst, j, i, expire)
	err = dst.Relay(src, size)
	endRestore(dst)
	return err
}

// beginRestore and endRestore are what comes before and after the payload.
func (p *Pipe) beginRestore(dst *conn.Wire, j *Job, i int, expire int64) {
	j.sent[i] = restore
	dst.Begin(6)
	dst.Arg("RESTORE")
	dst.Key(j.Keys[i])
	// 0 is "no expiry" to RESTORE. An expiry already past is right as it
	// is: RESTORE REPLACE then deletes the old value and adds nothing.
	dst.Number(max(0, expire))
}

func endRestore(dst *conn.Wire) {
	dst.Arg("REPLACE")
	dst.Arg("ABSTTL")
}

func (p *Pipe) remove(dst *conn.Wire, j *Job, i int) {
	if p.ways.noUnlink.Load() {
		j.sent[i] = del
		dst.About("DEL", j.Keys[i])
		return
	}
	j.sent[i] = unlink
	dst.About("UNLINK", j.Keys[i])
}

// displaced takes note where the source has refused to read a key because it is not there.
func (p *Pipe) displaced(src *conn.Wire, j *Job, i int, err error) bool {
	if err == nil || !p.src.Displaced(src, err) {
		return false
	}
	j.Outcomes[i] = elsewhere(j.Keys[i], src, err)
	return true
}

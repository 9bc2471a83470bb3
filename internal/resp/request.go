// Package resp frames the Redis protocol without decoding it: requests into commands, replies into elements.
// It owns the limits and the wording of protocol errors, exactly as Redis has them.
// It never does I/O, never allocates by a length that was only announced, and never changes a byte but those that stand for a line end.
package resp

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
)

// Limits of Redis on requests.
const (
	MaxBulk   = 512 << 20     // bytes of one argument (the default of proto-max-bulk-len)
	MaxInline = 64 << 10      // bytes of an inline command, or of one length line
	MaxArgs   = math.MaxInt32 // arguments of one command; memory grows only with what arrived

	// MaxCommand is how many bytes, with what is noted of each argument, may come of
	// a command that nobody takes piecewise.
	MaxCommand = 1 << 30

	strictArgs = 10
	strictBulk = 16 << 10
)

const (
	maxHead   = 8 // arguments that Big returns
	minSpace  = 16 << 10
	keepSpace = 256 << 10 // a larger buffer is given back once it is empty
)

// ErrTooLarge is a command of more than MaxCommand. Redis closes a connection
// without a word when its query buffer holds as much.
var ErrTooLarge = errors.New("the command is too large")

// ProtocolError is malformed input. Its text is what Redis answers before it
// closes the connection.
type ProtocolError string

// Error returns the reply's text without the leading "-ERR ".
func (e ProtocolError) Error() string { return "Protocol error: " + string(e) }

// Reply returns the whole reply line.
func (e ProtocolError) Reply() []byte { return []byte("-ERR " + e.Error() + "\r\n") }

// Request is one command of a client. Raw and Args point into the reader's
// buffer and are good until the next call of Space.
type Request struct {
	Raw    []byte   // as it came; what passed for a line end in an array is one
	Args   [][]byte // at least one
	Inline bool     // Raw is not a RESP array
}

// Requests turns a byte stream into requests, in time linear in its length
// however it is cut. The zero value is ready. Not for concurrent use.
type Requests struct {
	// Strict has the limits hold that Redis sets a client who has yet to
	// authenticate: strictArgs arguments of strictBulk bytes.
	Strict bool

	// Bulk is how many bytes an argument may have; 0 means MaxBulk.
	Bulk int

	buf  []byte
	r, w int  // buf[r:w] is not consumed yet; the current command starts at r
	pos  int  // where parsing goes on
	scan int  // up to where no line end was found
	nul  bool // a zero byte was found there: Redis sees no line end behind it
	last int  // where the request returned last starts

	left int  // arguments still to come, when in an array
	bulk int  // length of the argument that is being read, -1 before its header
	gone int  // how much of it was handed out by Stream
	over bool // more was announced than Strict allows

	blank bool // an empty command was skipped
	offs  []int
	args  [][]byte
	max   int // 0 is MaxCommand
	err   error
}

// Space returns where to read the next bytes into. It invalidates requests
// returned before.
func (p *Requests) Space() []byte {
	if p.r == p.w {
		p.r, p.w, p.pos, p.scan = 0, 0, 0, 0
		if len(p.buf) > keepSpace {
			p.buf = nil
		}
		if cap(p.args) > 1024 {
			p.args, p.offs = nil, nil
		}
	}
	if len(p.buf)-p.w < minSpace && p.r > 0 {
		n := p.r
		copy(p.buf, p.buf[p.r:p.w])
		p.r, p.w, p.pos, p.scan = 0, p.w-n, p.pos-n, p.scan-n
		for i := range p.offs {
			p.offs[i] -= n
		}
	}
	if len(p.buf)-p.w < minSpace/2 {
		grown := make([]byte, max(minSpace, 2*len(p.buf)))
		copy(grown, p.buf[:p.w])
		p.buf = grown
	}
	return p.buf[p.w:]
}

// Reserve makes the next Space at least n bytes.
func (p *Requests) Reserve(n int) {
	if p.r == p.w && len(p.buf) < n {
		p.buf = make([]byte, n)
		p.r, p.w, p.pos, p.scan = 0, 0, 0, 0
	}
}

// Advance says that n bytes were read into Space.
func (p *Requests) Advance(n int) { p.w += n }

// Buffered returns the number of bytes that came and are not consumed yet.
func (p *Requests) Buffered() int { return p.w - p.r }

// Size returns the number of bytes of memory kept for them, with what is noted of each
// argument and free ones included.
func (p *Requests) Size() int {
	const note, arg = 8, 24 // bytes of an int and of a slice
	return cap(p.buf) + note*cap(p.offs) + arg*cap(p.args)
}

// Rest returns the bytes that came and are not consumed yet, and consumes them.
// They are good until the next call of Space.
func (p *Requests) Rest() []byte {
	b := p.buf[p.r:p.w]
	p.r = p.w
	p.reset()
	return b
}

// Unread puts the request that Next returned last back, so that the next call
// returns it again. Neither Space nor Next may have been called since.
func (p *Requests) Unread() {
	p.r, p.pos = p.last, p.last
	p.reset()
}

// Big returns the first arguments of a command in whose middle an argument of at
// least size bytes is on its way, or of which eight times as much has come; ok is
// false when there is none. They are good until the next call of Space. The
// command can then be taken piecewise, by Stream, or whole, by Next.
func (p *Requests) Big(size int) (head [][]byte, ok bool) {
	if p.err != nil || p.left == 0 || len(p.offs) == 0 || p.bulk < size && p.pos-p.r < 8*size {
		return nil, false
	}
	p.collect(maxHead)
	return p.args, true
}

// Words returns how many arguments the command has of which Big has returned the first.
func (p *Requests) Words() int { return p.left + len(p.offs)/2 }

// Over reports whether the command that is coming was announced to be larger than
// Strict allows. Restart has it read from its begin again, after Strict was set.
func (p *Requests) Over() bool { return p.over }

// Restart reads the current command from its begin again. Nothing of it may have
// been handed out by Stream.
func (p *Requests) Restart() { p.reset() }

// Blank reports whether an empty command was skipped since Mind. To some servers it is
// not nothing, but the next command after what came before it.
func (p *Requests) Blank() bool { return p.blank }

// Mind says that what Blank reports was taken note of.
func (p *Requests) Mind() { p.blank = false }

// Stream returns what has come of the current command and was not handed out
// yet; the piece is good until the next call of Space. done says that the command
// is whole with it. From the first call until then it takes the place of Next,
// and is called again after more bytes have come. Malformed input is an error, as
// with Next, and the piece is then all that came.
func (p *Requests) Stream() (piece []byte, done bool, err error) {
	from := p.r
	p.offs = p.offs[:0]
	for p.left > 0 && p.pos < p.w {
		if p.bulk < 0 {
			found, err := p.length()
			if err != nil {
				p.err = err
				p.r = p.w
				return p.buf[from:p.w], false, err
			}
			if !found {
				break
			}
			continue
		}
		n := min(p.w-p.pos, p.bulk+2-p.gone)
		for i := max(p.bulk, p.gone); i < p.gone+n; i++ {
			p.buf[p.pos+i-p.gone] = "\r\n"[i-p.bulk]
		}
		p.pos += n
		p.gone += n
		if p.gone == p.bulk+2 {
			p.left--
			p.bulk, p.gone = -1, 0
		}
	}
	p.r = p.pos
	if p.left == 0 {
		p.reset()
		done = true
	}
	return p.buf[from:p.r], done, nil
}

func (p *Requests) reset() {
	p.pos, p.scan, p.nul, p.over, p.left, p.gone = p.r, p.r, false, false, 0, 0
	p.offs = p.offs[:0]
}

// Next returns the next whole request. ok is false when more bytes are needed.
// An error is a ProtocolError or ErrTooLarge, and final. Empty commands are skipped; see Blank.
func (p *Requests) Next() (req Request, ok bool, err error) {
	if p.err != nil {
		return Request{}, false, p.err
	}
	for p.pos < p.w {
		var found bool
		switch {
		case p.left == 0 && p.pos == p.r && !p.Strict && p.quick():
			found = true
		case p.left > 0:
			found, err = p.array()
		case p.buf[p.r] == '*':
			found, err = p.header()
			if found && p.left > 0 {
				continue
			}
			if found { // *0, *-1
				p.r, p.blank = p.pos, true
				p.reset()
				continue
			}
		default:
			req, found, err = p.inline()
			if found && len(req.Args) == 0 {
				p.blank = true
				continue
			}
			if found {
				return req, true, nil
			}
		}
		if err != nil {
			p.err = err
			return Request{}, false, err
		}
		if !found {
			return Request{}, false, p.tooLarge()
		}
		if n := len(p.offs) / 2; n > 0 {
			p.collect(n)
		}
		req = Request{Raw: p.buf[p.r:p.pos:p.pos], Args: p.args}
		p.last, p.r = p.r, p.pos
		p.reset()
		return req, true, nil
	}
	return Request{}, false, nil
}

// quick reads a command that has come whole and is written as every client writes
// it, and leaves pos behind it and its arguments in args. Otherwise nothing has
// changed, and the long way is to be gone. It is tried once a command.
func (p *Requests) quick() bool {
	b := p.buf[p.r:p.w]
	if b[0] != '*' {
		return false
	}
	left, at := quickLength(b, 1)
	if left == 0 || at == 0 {
		return false
	}
	args := p.args[:0]
	for ; left > 0; left-- {
		if at >= len(b) || b[at] != '$' {
			return false
		}
		n, from := quickLength(b, at+1)
		if at = from + n + 2; from == 0 || at > len(b) || b[at-2] != '\r' || b[at-1] != '\n' {
			return false
		}
		args = append(args, b[from:from+n:from+n])
	}
	p.args, p.pos = args, p.r+at
	return true
}

// quickLength reads a length of at most six digits and its line end. next is 0
// where it is anything else.
func quickLength(b []byte, from int) (n, next int) {
	i := from
	for i < len(b) && i < from+6 && b[i]-'0' <= 9 {
		n = 10*n + int(b[i]-'0')
		i++
	}
	if i == from || i+1 >= len(b) || b[i] != '\r' || b[i+1] != '\n' || b[from] == '0' && i > from+1 {
		return 0, 0
	}
	return n, i + 2
}

func (p *Requests) tooLarge() error {
	limit := p.max
	if limit == 0 {
		limit = MaxCommand
	}
	if p.w-p.r+8*len(p.offs) > limit {
		p.err = ErrTooLarge
	}
	return p.err
}

// collect returns the arguments that have come, n at most.
func (p *Requests) collect(n int) {
	p.args = p.args[:0]
	for i := 0; i < min(2*n, len(p.offs)); i += 2 {
		p.args = append(p.args, p.buf[p.offs[i]:p.offs[i+1]:p.offs[i+1]])
	}
}

// line finds the line that starts at pos and ends with '\r' and one more byte,
// as Redis reads it. ok is false when it has not all come yet. The byte becomes
// '\n', as what stands behind an argument becomes a line end: Valkey since 9.1 closes
// the connection that anything else comes on, which others may share.
func (p *Requests) line(tooBig ProtocolError) (line []byte, ok bool, err error) {
	end := p.find('\r')
	if end < 0 {
		if p.w-p.pos > MaxInline {
			return nil, false, tooBig
		}
		return nil, false, nil
	}
	if end+2 > p.w {
		p.scan = end
		return nil, false, nil
	}
	p.buf[end+1] = '\n'
	return p.buf[p.pos:end], true, nil
}

// find returns where the line that starts at pos ends with c, below 0 where it
// has not come yet or a zero byte hides it. It looks at no byte twice.
func (p *Requests) find(c byte) int {
	from := max(p.scan, p.pos)
	end, found := p.w, false
	if i := bytes.IndexByte(p.buf[from:p.w], c); i >= 0 {
		end, found = from+i, true
	}
	p.nul = p.nul || bytes.IndexByte(p.buf[from:end], 0) >= 0
	if p.nul {
		p.scan = p.w
		return -1
	}
	p.scan = end
	if !found {
		return -1
	}
	return end
}

func (p *Requests) header() (bool, error) {
	line, ok, err := p.line("too big mbulk count string")
	if !ok {
		return false, err
	}
	n, good := Integer(line[1:])
	if !good || n > MaxArgs {
		return false, ProtocolError("invalid multibulk length")
	}
	if n > strictArgs {
		if p.Strict {
			return false, ProtocolError("unauthenticated multibulk length")
		}
		p.over = true
	}
	p.pos += len(line) + 2
	p.left, p.bulk = int(max(n, 0)), -1
	return true, nil
}

// array reads arguments until the command is whole.
func (p *Requests) array() (bool, error) {
	for p.left > 0 {
		if p.bulk < 0 {
			if found, err := p.length(); !found {
				return false, err
			}
		}
		if p.w-p.pos < p.bulk+2 {
			return false, nil
		}
		p.offs = append(p.offs, p.pos, p.pos+p.bulk)
		p.pos += p.bulk + 2
		p.buf[p.pos-2], p.buf[p.pos-1] = '\r', '\n'
		p.bulk = -1
		p.left--
	}
	return true, nil
}

// length reads the header of an argument.
func (p *Requests) length() (bool, error) {
	if p.pos >= p.w {
		return false, nil
	}
	line, ok, err := p.line("too big bulk count string")
	if !ok {
		return false, err
	}
	if p.buf[p.pos] != '$' {
		return false, ProtocolError(fmt.Sprintf("expected '$', got '%s'", printable(p.buf[p.pos])))
	}
	n, good := Integer(line[1:])
	if !good || n < 0 || n > int64(cmp.Or(p.Bulk, MaxBulk)) {
		return false, ProtocolError("invalid bulk length")
	}
	if n > strictBulk {
		if p.Strict {
			return false, ProtocolError("unauthenticated bulk length")
		}
		p.over = true
	}
	p.pos += len(line) + 2
	p.bulk = int(n)
	return true, nil
}

// printable is what printf's %c leaves of c in a reply of one line: Redis turns
// line ends into spaces, and the text ends at a zero byte.
func printable(c byte) string {
	if c == '\r' || c == '\n' {
		return " "
	}
	return string([]byte{c})
}

func (p *Requests) inline() (Request, bool, error) {
	end := p.find('\n')
	if end < 0 {
		if p.w-p.pos > MaxInline {
			return Request{}, false, ProtocolError("too big inline request")
		}
		return Request{}, false, nil
	}
	line := p.buf[p.pos:end]
	line = bytes.TrimSuffix(line, []byte{'\r'})
	args, ok := SplitArgs(line)
	if !ok {
		return Request{}, false, ProtocolError("unbalanced quotes in request")
	}
	raw := p.buf[p.r : end+1 : end+1]
	p.last, p.r = p.r, end+1
	p.pos = p.r
	p.reset()
	return Request{Raw: raw, Args: args, Inline: true}, true, nil
}

// Integer reads a whole number exactly as Redis does: no plus sign, no leading
// zeros, no spaces, 64 bits.
func Integer(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 20 {
		return 0, false
	}
	if len(b) == 1 && b[0] == '0' {
		return 0, true
	}
	neg := b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || b[0] < '1' || b[0] > '9' {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		d := uint64(c - '0')
		if n > (math.MaxUint64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	switch {
	case neg && n <= 1<<63:
		return -int64(n), true
	case !neg && n <= math.MaxInt64:
		return int64(n), true
	}
	return 0, false
}

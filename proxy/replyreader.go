package proxy

import (
	"errors"

	"github.com/crossfade/crossfade/internal/resp"
)

// replyReader cuts what comes into replies.
type replyReader struct {
	read     func([]byte) (int, error)
	buf      []byte
	from, to int // of buf that is not consumed
	fr       resp.Framer
}

var errNoProgress = errors.New("nothing came")

// next returns the next reply, good until the next call; whole is false, and the reply
// cut, when it is larger than any that is compared.
func (in *replyReader) next() (reply []byte, whole bool, err error) {
	whole = true
	for fed := in.from; ; {
		n, done, err := in.fr.Feed(in.buf[fed:in.to])
		if err != nil {
			return nil, false, err
		}
		fed += n
		if done {
			reply = in.buf[in.from:fed]
			in.from = fed
			return reply, whole, nil
		}
		if !whole || fed-in.from > mostShaped {
			whole = false
			in.from, in.to, fed = 0, 0, 0
		}
		if in.from > 0 {
			in.to = copy(in.buf, in.buf[in.from:in.to])
			fed -= in.from
			in.from = 0
		}
		if in.to == len(in.buf) {
			grown := make([]byte, max(laneBuffer, 2*len(in.buf)))
			copy(grown, in.buf[:in.to])
			in.buf = grown
		}
		k, err := in.read(in.buf[in.to:])
		in.to += k
		if k == 0 {
			return nil, false, errors.Join(errNoProgress, err)
		}
	}
}

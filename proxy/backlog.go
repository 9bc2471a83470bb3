package proxy

const chunkSize = 64 << 10

// backlog holds bytes that a socket did not take yet, in chunks, so that neither
// growing nor a partial write copies what is there. The zero value is empty.
type backlog struct {
	chunks [][]byte // the first one begins with what is to be written next
	size   int
}

func (b *backlog) add(p []byte) {
	b.size += len(p)
	if n := len(b.chunks); n > 0 {
		last := b.chunks[n-1]
		k := copy(last[len(last):cap(last)], p)
		b.chunks[n-1] = last[:len(last)+k]
		p = p[k:]
	}
	for len(p) > 0 {
		chunk := make([]byte, min(len(p), chunkSize), chunkSize)
		copy(chunk, p)
		b.chunks = append(b.chunks, chunk)
		p = p[len(chunk):]
	}
}

// kept is how many bytes of memory it takes.
func (b *backlog) kept() int { return len(b.chunks) * chunkSize }

// take hands out the first chunk.
func (b *backlog) take() []byte {
	chunk := b.chunks[0]
	b.chunks[0] = nil
	b.chunks = b.chunks[1:]
	b.size -= len(chunk)
	return chunk
}

// drain writes chunk by chunk until write takes less than it was given, and
// returns how many bytes it took.
func (b *backlog) drain(write func([]byte) (int, error)) (taken int, err error) {
	for b.size > 0 {
		chunk := b.chunks[0]
		n, err := write(chunk)
		taken += n
		b.size -= n
		if n == len(chunk) {
			b.chunks[0] = nil
			b.chunks = b.chunks[1:]
		} else {
			b.chunks[0] = chunk[n:]
		}
		if err != nil || n < len(chunk) {
			return taken, err
		}
	}
	b.chunks = nil
	return taken, nil
}

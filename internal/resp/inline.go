package resp

// SplitArgs splits an inline command as Redis does: words divided by spaces,
// "…" with \n \r \t \b \a \xHH escapes, '…' with \' only. ok is false for
// unbalanced quotes. The arguments are copies.
func SplitArgs(line []byte) (args [][]byte, ok bool) {
	for i := 0; ; {
		for i < len(line) && space(line[i]) {
			i++
		}
		if i >= len(line) || line[i] == 0 {
			return args, true
		}
		arg, next, ok := word(line, i)
		if !ok {
			return nil, false
		}
		args = append(args, arg)
		i = next
	}
}

// word reads one argument that starts at i.
func word(line []byte, i int) (arg []byte, next int, ok bool) {
	arg = []byte{}
	for i < len(line) {
		c := line[i]
		switch {
		case c == 0 || ends(c):
			return arg, i, true
		case c == '"' || c == '\'':
			arg, i, ok = quoted(line, i, arg)
			if !ok {
				return nil, i, false
			}
			return arg, i, true
		}
		arg = append(arg, c)
		i++
	}
	return arg, i, true
}

// quoted reads from the opening quote at i; the closing one must end the word.
func quoted(line []byte, i int, arg []byte) ([]byte, int, bool) {
	quote := line[i]
	for i++; i < len(line) && line[i] != 0; i++ {
		c := line[i]
		switch {
		case c == quote:
			end := i + 1
			if end < len(line) && line[end] != 0 && !space(line[end]) {
				return nil, i, false
			}
			return arg, end, true
		case quote == '\'' && c == '\\' && i+1 < len(line) && line[i+1] == '\'':
			i++
			arg = append(arg, '\'')
		case quote == '"' && c == '\\' && i+3 < len(line) && line[i+1] == 'x' && hex(line[i+2]) >= 0 && hex(line[i+3]) >= 0:
			arg = append(arg, byte(hex(line[i+2])<<4|hex(line[i+3])))
			i += 3
		case quote == '"' && c == '\\' && i+1 < len(line):
			i++
			arg = append(arg, escape(line[i]))
		default:
			arg = append(arg, c)
		}
	}
	return nil, i, false
}

func escape(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case 'a':
		return '\a'
	}
	return c
}

// ends reports whether c ends a word that is not quoted: fewer characters than divide words.
func ends(c byte) bool { return space(c) && c != '\v' && c != '\f' }

func space(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

package keyspec

// An oddity is a command whose specs do not tell all, or not what it does: its words
// are read as the command itself reads them. (Server sources: the function of each.)
type oddity uint8

const (
	even oddity = iota
	oddSort
	oddSortRO
	oddGeo
	oddGeoMember
	oddMigrate
	oddStreams
	oddSet
	oddBitfield
)

var oddities = map[string]oddity{
	"sort": oddSort, "sort_ro": oddSortRO, "georadius": oddGeo, "georadiusbymember": oddGeoMember,
	"migrate": oddMigrate, "xread": oddStreams, "xreadgroup": oddStreams, "set": oddSet, "bitfield": oddBitfield,
}

func (o oddity) keys(dst []Key, args [][]byte) []Key {
	switch o {
	case oddSort:
		return stored(append(dst, Key{1, RO | Access}), args, 2)
	case oddSortRO:
		return append(dst, Key{1, RO | Access})
	case oddGeo:
		return stored(append(dst, Key{1, RO | Access}), args, 6)
	case oddGeoMember:
		return stored(append(dst, Key{1, RO | Access}), args, 5)
	case oddMigrate:
		return migrated(dst, args)
	case oddStreams:
		return streams(dst, args)
	case oddSet:
		return append(dst, Key{1, setUse(args)})
	case oddBitfield:
		return append(dst, Key{1, bitfieldUse(args)})
	}
	return dst
}

// stored appends where the result goes: of several, the last one holds.
func stored(dst []Key, args [][]byte, from int) []Key {
	at := 0
	for i := from; i < len(args)-1; i++ {
		switch {
		case is(args[i], "store"), is(args[i], "storedist"):
			i++
			at = i
		case is(args[i], "limit"):
			i += 2
		case is(args[i], "by"), is(args[i], "get"), is(args[i], "count"):
			i++
		}
	}
	if at > 0 {
		dst = append(dst, Key{at, OW | Update})
	}
	return dst
}

// migrated reads "MIGRATE host port key …" and "MIGRATE host port "" … KEYS key …".
func migrated(dst []Key, args [][]byte) []Key {
	from, to := 3, 4
	for i := 6; i < len(args); i++ {
		if is(args[i], "keys") {
			if from, to = i+1, len(args); len(args[3]) > 0 {
				return dst
			}
			break
		}
		switch {
		case is(args[i], "auth"):
			i++
		case is(args[i], "auth2"):
			i += 2
		}
	}
	for i := from; i < to; i++ {
		dst = append(dst, Key{i, RW | Access | Delete})
	}
	return dst
}

// Streams finds the word STREAMS of XREAD and XREADGROUP, -1 where there is none. What
// stands before it is read as options, so that a group or a consumer called "streams" is
// not taken for it.
func Streams(args [][]byte) int {
	for i := 1; i < len(args); i++ {
		switch {
		case is(args[i], "streams"):
			return i
		case is(args[i], "count"), is(args[i], "block"), is(args[i], "claim"):
			i++
		case is(args[i], "group"):
			i += 2
		}
	}
	return -1
}

// streams reads "… STREAMS key … id …".
func streams(dst []Key, args [][]byte) []Key {
	at := Streams(args)
	rest := len(args) - at - 1
	if at < 0 || rest%2 != 0 {
		return dst
	}
	for i := range rest / 2 {
		dst = append(dst, Key{at + 1 + i, RO | Access})
	}
	return dst
}

// setUse is that of SET: with GET it tells what was there.
func setUse(args [][]byte) Use {
	for i := 3; i < len(args); i++ {
		if is(args[i], "get") {
			return RW | Access | Update
		}
	}
	return OW | Update
}

// bitfieldUse is that of BITFIELD, which may be all GETs.
func bitfieldUse(args [][]byte) Use {
	const read, changed = RO | Access, RW | Access | Update
	for i := 2; i < len(args); i++ {
		switch {
		case is(args[i], "get") && i+2 < len(args):
			i += 2
		case is(args[i], "overflow") && i+1 < len(args):
			i++
		default:
			return changed
		}
	}
	return read
}

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// A Debian package is an ar archive of three members: the format's version, the control
// files and the data, see deb(5).

// debFile is one that is installed, or one of the control files.
type debFile struct {
	path string // without the first slash
	data []byte
	mode int64
	conf bool // is the administrator's: dpkg asks before it changes a changed one
}

// writeDeb puts a package together. control lacks what is known here only.
func writeDeb(control string, scripts, files []debFile, date time.Time) ([]byte, error) {
	var sums, confs strings.Builder
	size := 0
	for _, f := range files {
		size += (len(f.data) + 1023) / 1024
		if f.conf {
			fmt.Fprintf(&confs, "/%s\n", f.path)
		} else {
			fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(f.data), f.path) // the format's own; no matter of security
		}
	}
	control += fmt.Sprintf("Installed-Size: %d\n", size)
	about := append([]debFile{
		{path: "control", data: []byte(control), mode: 0o644},
		{path: "md5sums", data: []byte(sums.String()), mode: 0o644},
		{path: "conffiles", data: []byte(confs.String()), mode: 0o644},
	}, scripts...)
	first, err := archive(about, date)
	if err != nil {
		return nil, err
	}
	second, err := archive(files, date)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, member := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", first}, {"data.tar.gz", second}} {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, date.Unix(), 0, 0, "100644", len(member.data))
		out.Write(member.data)
		if len(member.data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes(), nil
}

// archive is a tar file with the folders that the files are in, root's.
func archive(files []debFile, date time.Time) ([]byte, error) {
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(zip)
	for _, folder := range folders(files) {
		header := &tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o755, ModTime: date, Uname: "root", Gname: "root", Format: tar.FormatGNU}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: "./" + f.path, Mode: f.mode, Size: int64(len(f.data)), ModTime: date, Uname: "root", Gname: "root", Format: tar.FormatGNU}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := zip.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// folders are those of the files, the upper ones first.
func folders(files []debFile) []string {
	all := []string{"./"}
	for _, f := range files {
		for folder := path.Dir(f.path); folder != "."; folder = path.Dir(folder) {
			all = append(all, "./"+folder+"/")
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// zipped is for texts, which Debian keeps so.
func zipped(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

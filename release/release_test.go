package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
)

// testImage returns an image whose executables are a few bytes each.
func testImage() *image {
	return &image{
		Version:     "1.2",
		Created:     time.Unix(1700000000, 0),
		Executables: map[string][]byte{"amd64": []byte("one"), "arm64": []byte("another")},
	}
}

func TestArchiveVerifies(t *testing.T) {
	archive, err := testImage().archive()
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(bytes.NewReader(archive)); err != nil {
		t.Error(err)
	}
	again, err := testImage().archive()
	if err != nil || !bytes.Equal(archive, again) {
		t.Errorf("the same image gives other bytes the second time (error %v)", err)
	}
}

// The layer is what COPY --from sees.
func TestLayerHoldsBothNames(t *testing.T) {
	im := testImage()
	store := blobs{}
	d, err := im.manifest(store, "arm64", im.Executables["arm64"])
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := json.Unmarshal(store[d.Digest], &m); err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(store[m.Layers[0].Digest]))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(im.Created) || h.Uid != 0 || h.Gid != 0 || h.Mode != 0o755 {
			t.Errorf("%s: %v uid %d gid %d mode %o", h.Name, h.ModTime, h.Uid, h.Gid, h.Mode)
		}
		got = append(got, h.Name+h.Linkname)
	}
	if s := strings.Join(got, " "); s != "slashrun usr/ usr/bin/ usr/bin/slashrunslashrun" {
		t.Errorf("the layer holds %s", s)
	}
}

// verify must refuse what a broken archive looks like.
func TestVerifyRefuses(t *testing.T) {
	archive, err := testImage().archive()
	if err != nil {
		t.Fatal(err)
	}
	content, err := readTar(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	var blob string // a layer: the only blobs that are not JSON
	for name, data := range content {
		if strings.HasPrefix(name, "blobs/") && data[0] != '{' {
			blob = name
		}
	}
	for _, c := range []struct {
		name   string
		change func(map[string][]byte)
		want   string
	}{
		{"a changed blob", func(m map[string][]byte) { m[blob] = append([]byte{0}, m[blob][1:]...) }, "has the digest"},
		{"a short blob", func(m map[string][]byte) { m[blob] = m[blob][1:] }, "its descriptor says"},
		{"a missing blob", func(m map[string][]byte) { delete(m, blob) }, "is missing"},
		{"a blob too many", func(m map[string][]byte) { m["blobs/sha256/00"] = nil }, "belongs to nothing"},
		{"no layout file", func(m map[string][]byte) { delete(m, "oci-layout") }, "oci-layout"},
		{"an empty index", func(m map[string][]byte) { m["index.json"] = []byte("{}") }, "without manifests"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := map[string][]byte{}
			var files []file
			for name, data := range content {
				changed[name] = data
			}
			c.change(changed)
			for name, data := range changed {
				files = append(files, file{name: name, mode: 0o644, data: data})
			}
			text, err := tarball(files, testImage().Created)
			if err != nil {
				t.Fatal(err)
			}
			if err := verify(bytes.NewReader(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("verify = %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestSourceDate(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	if got, err := sourceDate(t.TempDir()); err != nil || got.Unix() != 1700000000 {
		t.Errorf("sourceDate = %v, %v", got, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if _, err := sourceDate(t.TempDir()); err == nil {
		t.Error("no error for a bad SOURCE_DATE_EPOCH")
	}
	t.Setenv("SOURCE_DATE_EPOCH", "")
	if got, err := sourceDate(t.TempDir()); err != nil || got.Unix() != 0 {
		t.Errorf("outside a repository = %v, %v; want the epoch", got, err)
	}
}

// static must see a dynamic loader where there is one.
func TestStatic(t *testing.T) {
	for _, c := range []struct {
		segment elf.ProgType
		want    bool
	}{{elf.PT_LOAD, true}, {elf.PT_INTERP, false}, {elf.PT_DYNAMIC, false}} {
		head := elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
		}
		var exe bytes.Buffer
		for _, part := range []any{head, elf.Prog64{Type: uint32(c.segment), Off: 64}} {
			if err := binary.Write(&exe, binary.LittleEndian, part); err != nil {
				t.Fatal(err)
			}
		}
		if err := static(exe.Bytes()); (err == nil) != c.want {
			t.Errorf("an executable with %v: static = %v, want static %v", c.segment, err, c.want)
		}
	}
	if err := static([]byte("#!/bin/sh\n")); err == nil {
		t.Error("a script is not an ELF file, and static takes it")
	}
}

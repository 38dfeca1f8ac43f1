package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// Media types of the OCI image specification 1.1.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// image is what goes into the archive: one image for each architecture, from
// scratch, with the executable as /slashrun and /usr/bin/slashrun.
type image struct {
	Version     string
	Created     time.Time
	Executables map[string][]byte // by architecture
}

// The JSON documents of the specification, as far as they are used here.
type (
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int64             `json:"size"`
		Platform    *platform         `json:"platform,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	platform struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	}
	index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	manifest struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        descriptor        `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}
	config struct {
		Created      string `json:"created"`
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Config       struct {
			Env        []string
			Entrypoint []string
			Labels     map[string]string
		} `json:"config"`
		RootFS struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
		History []history `json:"history"`
	}
	history struct {
		Created   string `json:"created"`
		CreatedBy string `json:"created_by"`
	}
)

// blobs collects the content of an archive by digest.
type blobs map[string][]byte

// add takes data in and returns its descriptor.
func (b blobs) add(mediaType string, data []byte) descriptor {
	d := digest(data)
	b[d] = data
	return descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func (b blobs) addJSON(mediaType string, v any) (descriptor, error) {
	data, err := json.Marshal(v) // struct fields and sorted map keys: always the same bytes
	if err != nil {
		return descriptor{}, err
	}
	return b.add(mediaType, data), nil
}

func digest(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// archive returns the image as a tar file in the OCI image layout, which skopeo,
// podman, buildah, docker and containerd load. The images of the architectures
// stand in an index of their own, so that the layout has one entry to choose.
func (im *image) archive() ([]byte, error) {
	store := blobs{}
	var all index
	all.SchemaVersion, all.MediaType = 2, typeIndex
	for _, arch := range architectures {
		exe, ok := im.Executables[arch]
		if !ok {
			continue
		}
		d, err := im.manifest(store, arch, exe)
		if err != nil {
			return nil, err
		}
		d.Platform = &platform{Architecture: arch, OS: "linux"}
		all.Manifests = append(all.Manifests, d)
	}
	top, err := store.addJSON(typeIndex, all)
	if err != nil {
		return nil, err
	}
	top.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": im.Version,
		"io.containerd.image.name":          "localhost/slashrun:" + im.Version,
	}
	layout, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{top}})
	if err != nil {
		return nil, err
	}
	files := []file{
		{name: "oci-layout", mode: 0o644, data: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{name: "index.json", mode: 0o644, data: layout},
		{name: "blobs/", mode: 0o755},
		{name: "blobs/sha256/", mode: 0o755},
	}
	var digests []string
	for d := range store {
		digests = append(digests, d)
	}
	slices.Sort(digests)
	for _, d := range digests {
		files = append(files, file{name: "blobs/" + strings.Replace(d, ":", "/", 1), mode: 0o644, data: store[d]})
	}
	return tarball(files, im.Created)
}

// manifest adds the image of one architecture to store.
func (im *image) manifest(store blobs, arch string, exe []byte) (descriptor, error) {
	// A hard link, not a symbolic one: COPY --from gives a file either way.
	layer, err := tarball([]file{
		{name: "slashrun", mode: 0o755, data: exe},
		{name: "usr/", mode: 0o755},
		{name: "usr/bin/", mode: 0o755},
		{name: "usr/bin/slashrun", mode: 0o755, link: "slashrun"},
	}, im.Created)
	if err != nil {
		return descriptor{}, err
	}
	packed, err := gzipped(layer)
	if err != nil {
		return descriptor{}, err
	}
	created := im.Created.UTC().Format(time.RFC3339)
	labels := map[string]string{
		"org.opencontainers.image.title":    "slashrun",
		"org.opencontainers.image.version":  im.Version,
		"org.opencontainers.image.source":   "https://github.com/slashrun/slashrun",
		"org.opencontainers.image.licenses": "Apache-2.0",
	}
	var c config
	c.Created, c.Architecture, c.OS = created, arch, "linux"
	c.Config.Env = []string{"PATH=/usr/bin"}
	c.Config.Entrypoint = []string{"/slashrun"}
	c.Config.Labels = labels
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{digest(layer)}
	c.History = []history{{Created: created, CreatedBy: "make dist"}}
	cd, err := store.addJSON(typeConfig, c)
	if err != nil {
		return descriptor{}, err
	}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest, Config: cd, Annotations: labels,
		Layers: []descriptor{store.add(typeLayer, packed)}}
	return store.addJSON(typeManifest, m)
}

// verify reads an OCI archive as a stranger would: every descriptor from
// index.json down has to name a blob of that size and digest, each layer has to
// unpack to its diff_id, and no blob may be left over.
func verify(r io.Reader) error {
	content, err := readTar(r)
	if err != nil {
		return err
	}
	if !bytes.Contains(content["oci-layout"], []byte(`"imageLayoutVersion":"1.0.0"`)) {
		return errors.New("oci-layout is missing or of another version")
	}
	v := verifier{content: content, used: map[string]bool{"oci-layout": true, "index.json": true}}
	var top index
	if err := json.Unmarshal(content["index.json"], &top); err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	if err := v.index(top); err != nil {
		return err
	}
	for name := range content {
		if !v.used[name] {
			return fmt.Errorf("%s belongs to nothing", name)
		}
	}
	return nil
}

// readTar returns the regular files of a tar file by name.
func readTar(r io.Reader) (map[string][]byte, error) {
	content := map[string][]byte{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return content, nil
		} else if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(t)
		if err != nil {
			return nil, err
		}
		content[path.Clean(h.Name)] = data
	}
}

type verifier struct {
	content map[string][]byte
	used    map[string]bool
}

// blob returns what d describes, checked.
func (v *verifier) blob(d descriptor) ([]byte, error) {
	name := "blobs/" + strings.Replace(d.Digest, ":", "/", 1)
	data, ok := v.content[name]
	if !ok {
		return nil, fmt.Errorf("%s is missing", name)
	}
	if int64(len(data)) != d.Size {
		return nil, fmt.Errorf("%s has %d bytes, its descriptor says %d", name, len(data), d.Size)
	}
	if digest(data) != d.Digest {
		return nil, fmt.Errorf("%s has the digest %s", name, digest(data))
	}
	v.used[name] = true
	return data, nil
}

func (v *verifier) index(ix index) error {
	if len(ix.Manifests) == 0 {
		return errors.New("an index without manifests")
	}
	for _, d := range ix.Manifests {
		data, err := v.blob(d)
		if err != nil {
			return err
		}
		switch d.MediaType {
		case typeIndex:
			var sub index
			if err := json.Unmarshal(data, &sub); err != nil {
				return err
			}
			err = v.index(sub)
		case typeManifest:
			err = v.manifest(d, data)
		default:
			err = fmt.Errorf("unknown media type %s", d.MediaType)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *verifier) manifest(d descriptor, data []byte) error {
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	text, err := v.blob(m.Config)
	if err != nil {
		return err
	}
	var c config
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	if d.Platform == nil || d.Platform.Architecture != c.Architecture || d.Platform.OS != c.OS {
		return fmt.Errorf("the index says %+v, the image %s/%s", d.Platform, c.OS, c.Architecture)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("%d layers, %d diff_ids", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	for i, l := range m.Layers {
		packed, err := v.blob(l)
		if err != nil {
			return err
		}
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			return err
		}
		layer, err := io.ReadAll(z)
		if err != nil {
			return err
		}
		if digest(layer) != c.RootFS.DiffIDs[i] {
			return fmt.Errorf("layer %d unpacks to %s, its diff_id is %s", i, digest(layer), c.RootFS.DiffIDs[i])
		}
	}
	return nil
}

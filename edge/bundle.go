package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path"
	"runtime/debug"
	"runtime/pprof"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// maxTranscripts is how many tunnels a bundle has the transcripts of at most.
const maxTranscripts = 100

// explain returns what explains how the edge fares, by file name, for a bundle. Keys and
// secrets are not in it. What is to be had in time is in it.
func (a *agent) explain(ctx context.Context) map[string][]byte {
	files := map[string][]byte{}
	text := func(name string, write func(*bytes.Buffer) error) {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			fmt.Fprintf(&b, "\nnot complete: %v\n", err)
		}
		files[name] = b.Bytes()
	}
	text("status.json", func(b *bytes.Buffer) error {
		enc := json.NewEncoder(b)
		enc.SetIndent("", "  ")
		return enc.Encode(a.status())
	})
	if i := a.runner.Running(); i != nil {
		text("intent.json", func(b *bytes.Buffer) error {
			out, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true}.Marshal(withoutSecrets(i.EdgeIntent()))
			b.Write(out)
			return err
		})
	}
	text("host.txt", a.describeHost)
	text("goroutines.txt", func(b *bytes.Buffer) error { return pprof.Lookup("goroutine").WriteTo(b, 1) })
	if info, ok := debug.ReadBuildInfo(); ok {
		files["program.txt"] = []byte(info.String())
	}
	for i, t := range a.engine.Status() {
		if ctx.Err() != nil || i == maxTranscripts {
			break
		}
		text("transcripts/"+path.Base(t.Name)+".txt", func(b *bytes.Buffer) error {
			entries, err := a.engine.Transcript(t.Name)
			for _, e := range entries {
				fmt.Fprintln(b, e)
			}
			return err
		})
	}
	return files
}

// describeHost says what the host's network is like, and that of each segment's namespace.
func (a *agent) describeHost(b *bytes.Buffer) error {
	if err := a.host.Describe(b); err != nil {
		return err
	}
	for _, at := range a.segments {
		fmt.Fprintf(b, "\nsegment %s, in network namespace %s\n", at.Name, at.Namespace)
		if err := at.host.Describe(b); err != nil {
			return err
		}
	}
	return nil
}

// withoutSecrets is a copy of m without the fields that its proto says are not to be shown.
func withoutSecrets[M proto.Message](m M) M {
	out := proto.CloneOf(m)
	redact(out.ProtoReflect())
	return out
}

func redact(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		options, _ := f.Options().(*descriptorpb.FieldOptions)
		switch {
		case options.GetDebugRedact():
			m.Clear(f)
		case f.IsMap() && f.MapValue().Message() != nil:
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { redact(v.Message()); return true })
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				redact(v.List().Get(i).Message())
			}
		default:
			redact(v.Message())
		}
		return true
	})
}

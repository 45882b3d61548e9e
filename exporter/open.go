package main

import "capability_exporter/bpf"

// openTracer is bpf.Open behind the tracer interface. A nil *bpf.Tracer must
// not become a tracer that is not nil.
func openTracer(options bpf.Options) (tracer, error) {
	t, err := bpf.Open(options)
	if err != nil {
		return nil, err
	}
	return t, nil
}

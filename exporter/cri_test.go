package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// A client of the Container Runtime Interface, by which a kubelet has containerd make pods. Debian 13 has no crictl, and to build one
// takes half of Kubernetes. The calls are gRPC's; a message's fields go by their numbers in pkg/apis/runtime/v1/api.proto of
// k8s.io/cri-api.

// handlerWithoutSystemd has runc make the cgroups.
const handlerWithoutSystemd = "cgroupfs"

// inMachinesNetwork is where pods are.
func inMachinesNetwork() message {
	const node = 2
	return message{{1, node}}
}

// startPod has a pod made with an asker in it.
func (r runtimes) startPod(t *testing.T, name, uid, parent, handler string) (container string) {
	t.Helper()
	return r.startContainer(t, name, uid, parent, handler, message{
		{1, message{{1, "asker"}}},                            // metadata
		{2, message{{1, imageName}}},                          // image
		{3, "/asker"},                                         // command
		{6, message{{1, helperRole}, {2, helperStay}}},        // envs
		{7, message{{1, "/asker"}, {2, asker}}},               // mounts
		{15, message{{2, message{{3, inMachinesNetwork()}}}}}, // linux, security_context
	})
}

// startContainer has a pod made with one container in it. parent is its cgroup, as a kubelet writes it.
func (r runtimes) startContainer(t *testing.T, name, uid, parent, handler string, config message) (container string) {
	t.Helper()
	c := newCRI(t)
	r.importImage(t, c)
	sandbox := message{
		{1, message{{1, name}, {2, uid}, {3, "default"}}}, // metadata
		{3, logsOfPods}, // log_directory
		{8, message{ // linux
			{1, parent},
			{2, message{{1, inMachinesNetwork()}}}, // security_context
		}},
	}
	pod := string(field(t, c.call(t, "RuntimeService/RunPodSandbox", message{{1, sandbox}, {2, handler}}), 1))
	container = string(field(t, c.call(t, "RuntimeService/CreateContainer", message{{1, pod}, {2, config}, {3, sandbox}}), 1))
	c.call(t, "RuntimeService/StartContainer", message{{1, container}})
	return container
}

// importImage returns when containerd's part for pods has the image.
func (r runtimes) importImage(t *testing.T, c cri) {
	t.Helper()
	known := func() bool {
		return len(c.call(t, "ImageService/ImageStatus", message{{1, message{{1, imageName}}}})) > 0
	}
	output(t, "systemctl", "start", "containerd.service") // waits until it has started
	if known() {
		return
	}
	output(t, "ctr", "--namespace=k8s.io", "images", "import", r.image)
	for deadline := time.Now().Add(patience); !known(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("containerd's CRI plugin does not know of the image")
		}
	}
}

// saysCRI is what crictl inspect shows, of which the cgroup is the first process'.
func (runtimes) saysCRI(t *testing.T, container string) map[string]string {
	t.Helper()
	status := newCRI(t).status(t, container)
	return map[string]string{"container_id": string(field(t, status, 1, 1)), "cgroup": cgroupOf(t, strconv.Itoa(firstProcess(t, status)))}
}

type cri struct{ client *http.Client }

// status is what there is to know of a container.
func (c cri) status(t *testing.T, container string) []byte {
	t.Helper()
	const verbose = 1
	return c.call(t, "RuntimeService/ContainerStatus", message{{1, container}, {2, verbose}})
}

// firstProcess is the process id that a status has.
func firstProcess(t *testing.T, status []byte) int {
	t.Helper()
	var info struct{ PID int }
	if err := json.Unmarshal(field(t, status, 2, 2), &info); err != nil { // the value of the first of a map
		t.Fatal(err)
	}
	return info.PID
}

// A message's fields are numbered, and are each a string, a number or a message.
type message []struct {
	number protowire.Number
	value  any
}

func (m message) encode() (b []byte) {
	for _, f := range m {
		switch v := f.value.(type) {
		case int:
			b = protowire.AppendVarint(protowire.AppendTag(b, f.number, protowire.VarintType), uint64(v))
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, f.number, protowire.BytesType), v)
		case message:
			b = protowire.AppendBytes(protowire.AppendTag(b, f.number, protowire.BytesType), v.encode())
		}
	}
	return b
}

// field goes into messages by the numbers of their fields, and returns what the last is.
func field(t *testing.T, encoded []byte, numbers ...protowire.Number) []byte {
	t.Helper()
	for _, wanted := range numbers {
		rest := encoded
		for {
			number, kind, n := protowire.ConsumeTag(rest)
			if n < 0 {
				t.Fatalf("there is no field %v in the answer %q", numbers, encoded)
			}
			rest = rest[n:]
			if number == wanted && kind == protowire.BytesType {
				encoded, _ = protowire.ConsumeBytes(rest)
				break
			}
			if n = protowire.ConsumeFieldValue(number, kind, rest); n < 0 {
				t.Fatalf("the answer is no message: %q", encoded)
			}
			rest = rest[n:]
		}
	}
	return encoded
}

func newCRI(t *testing.T) cri {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", "/run/containerd/containerd.sock")
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return cri{&http.Client{Transport: transport, Timeout: patience}}
}

// call makes one, and returns the message that it is answered with (gRPC over HTTP2 in the documentation of gRPC).
func (c cri) call(t *testing.T, method string, argument message) []byte {
	t.Helper()
	const header = 5 // not compressed, and the length
	encoded := argument.encode()
	body := bytes.NewReader(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(encoded))), encoded...))
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://containerd/runtime.v1."+method, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	response, err := c.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.Trailer.Get("Grpc-Status") != "0" || len(answer) < header {
		t.Fatalf("%s: %s: %v %v", method, response.Status, response.Header, response.Trailer)
	}
	return answer[header:]
}

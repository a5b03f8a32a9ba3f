package handoffgrpc_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/handoff-auth/handoff/shared/handoffgrpc"

	server2v1 "github.com/handoff-auth/handoff/proto/handoff/server2/v1"
)

// handwritten sends one call frame by frame, and returns its grpc-status; -1 if the server answered with less.
func handwritten(t *testing.T, conn net.Conn, req proto.Message, header ...hpack.HeaderField) int {
	t.Helper()
	body, err := proto.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range header {
		if err := encoder.WriteField(f); err != nil {
			t.Fatal(err)
		}
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	go func() { // the server writes at the same time; what it refuses early it does not read to the end
		_, _ = io.WriteString(conn, http2.ClientPreface)
		_ = framer.WriteSettings()
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
		message := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body)))
		_ = framer.WriteData(1, true, append(message, body...))
	}()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return -1 // the connection is gone
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, f := range frame.Fields {
				if f.Name == "grpc-status" {
					code, err := strconv.Atoi(f.Value)
					if err != nil {
						t.Fatal(err)
					}
					return code
				}
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return -1
		}
	}
}

// G10 and G02: what gRPC's own client would not send. Each differs in one thing from a call that runs.
func TestHandwrittenFrames(t *testing.T) {
	const method = server2v1.InvoiceService_PayInvoice_FullMethodName
	for _, c := range []struct {
		name, path, authorization string
		want                      codes.Code
	}{
		{"control", method, "authorization", codes.OK},
		{"G10 no leading slash", method[1:], "authorization", codes.Unimplemented},
		{"G10 two leading slashes", "/" + method, "authorization", codes.Unimplemented},
		{"G10 another case", "/handoff.server2.v1.invoiceservice/PayInvoice", "authorization", codes.Unimplemented},
		{"G10 a trailing slash", method + "/", "authorization", codes.Unimplemented},
		{"G10 a query", method + "?x", "authorization", codes.Unimplemented},
		{"G10 escaped", "/handoff.server2.v1.InvoiceService/%50ayInvoice", "authorization", codes.Unimplemented},
		{"G02 Authorization", method, "Authorization", 1<<32 - 1}, // HTTP/2 has no capitals: no answer at all
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newKit(t, handoffgrpc.Config{})
			s := k.server()
			if err := k.guard.Check(s); err != nil {
				t.Fatal(err)
			}
			conn, err := start(t, s).DialContext(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			got := handwritten(t, conn, payment(),
				hpack.HeaderField{Name: ":method", Value: "POST"},
				hpack.HeaderField{Name: ":scheme", Value: "http"},
				hpack.HeaderField{Name: ":authority", Value: "billing.example"},
				hpack.HeaderField{Name: ":path", Value: c.path},
				hpack.HeaderField{Name: "content-type", Value: "application/grpc"},
				hpack.HeaderField{Name: "te", Value: "trailers"},
				hpack.HeaderField{Name: c.authorization, Value: "Bearer " + k.pay(t).Compact()})
			if codes.Code(got) != c.want {
				t.Errorf("grpc-status %d, want %d", got, c.want)
			}
			ran, told := len(k.handlers()), k.store.len()
			if want := c.want == codes.OK; (ran == 1) != want || (told == 1) != want {
				t.Errorf("%d handlers ran, %d tokens were redeemed", ran, told)
			}
		})
	}
}

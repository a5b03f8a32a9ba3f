package adopter

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	gateway "example.com/adopter/gateway/billing/v1"
)

// NewGateway takes calls as JSON over HTTP, and makes them over conn.
func NewGateway(ctx context.Context, conn *grpc.ClientConn) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, oneDocument{&runtime.JSONPb{
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
		}}),
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }), // Authorization passes without
	)
	if err := gateway.RegisterBillingHandler(ctx, mux, conn); err != nil {
		return nil, err
	}
	return http.MaxBytesHandler(mux, 64<<10), nil
}

// oneDocument is JSON that takes a whole body for one message: JSONPb ignores what follows the first document.
type oneDocument struct{ *runtime.JSONPb }

func (j oneDocument) NewDecoder(body io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		message, ok := v.(proto.Message)
		if !ok {
			return fmt.Errorf("%T is no message", v)
		}
		text, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		return j.UnmarshalOptions.Unmarshal(text, message)
	})
}

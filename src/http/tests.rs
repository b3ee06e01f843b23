use actix_web::test::{TestRequest, call_service, init_service, read_body_json};

use super::*;

/// What no request can bring about from outside: a handler that panics, by itself or on a blocking thread.
#[test]
fn a_panic_is_answered_as_a_problem_and_the_next_request_as_ever() {
    let panics = || async { panic!("on purpose") as &str };
    let blocks = || async {
        let done = web::block(|| panic!("on purpose")).await.map_err(|error| Problem::internal(&error));
        done.map(|()| "never")
    };
    actix_web::rt::System::new().block_on(async {
        let app = App::new()
            .route("/panics", web::get().to(panics))
            .route("/blocks", web::get().to(blocks))
            .route("/fine", web::get().to(|| async { "fine" }))
            .wrap(from_fn(finish))
            .wrap(TracingLogger::<log::Lines>::new());
        let app = init_service(app).await;
        for path in ["/blocks", "/panics", "/fine", "/panics"] {
            let answered = actix_web::test::try_call_service(&app, TestRequest::get().uri(path).to_request()).await;
            // An error that no middleware has answered is answered by the server, in just this way.
            let response = match answered {
                Ok(response) => response.into_parts().1.map_into_boxed_body(),
                Err(error) => error.error_response(),
            };
            let secured = response.headers().contains_key("content-security-policy");
            assert!(secured, "{path}");
            assert_eq!(response.status().as_u16(), if path == "/fine" { 200 } else { 500 }, "{path}");
        }
        let response = call_service(&app, TestRequest::get().uri("/blocks").to_request()).await;
        let problem: Value = read_body_json(response).await;
        assert_eq!(problem["type"], "urn:attendance-backup:problem:internal");
        assert!(!problem.to_string().contains("on purpose"), "{problem}");
    });
}

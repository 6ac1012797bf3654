//! Reads Chromium's logs: the console, and what happened on the network.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// Answers and errors from a browser's logs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Every answer, in the order received: pages, pictures, scripts, what scripts fetched.
    pub answers: Vec<Answer>,
    /// Failed requests, answers from 400 on, errors in the console.
    pub errors: Vec<String>,
}

/// An answer to a request of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The status, 200 to 599.
    pub status: u16,
    pub url: String,
}

/// Reads the entries of the logs "performance" and "browser".
pub(super) fn read(performance: &[Value], console: &[Value]) -> Result<Seen> {
    let mut seen = Seen::default();
    // A failure event has only the request's id, so URLs are kept by id.
    let mut urls = BTreeMap::new();
    for entry in performance {
        let message = entry["message"].as_str().context("an entry without a message")?;
        let message: Value =
            serde_json::from_str(message).context("an entry's message is no JSON")?;
        note(&message["message"], &mut urls, &mut seen);
    }
    let severe = console.iter().filter(|entry| entry["level"] == "SEVERE");
    seen.errors.extend(severe.map(|entry| format!("console: {}", text(&entry["message"]))));
    Ok(seen)
}

/// Adds one event of the DevTools protocol.
fn note(event: &Value, urls: &mut BTreeMap<String, String>, seen: &mut Seen) {
    let parameters = &event["params"];
    let request = text(&parameters["requestId"]);
    match event["method"].as_str() {
        Some("Network.requestWillBeSent") => {
            urls.insert(request, text(&parameters["request"]["url"]));
        }
        Some("Network.responseReceived") => {
            let response = &parameters["response"];
            let status = response["status"]
                .as_u64()
                .and_then(|status| status.try_into().ok())
                .unwrap_or_default();
            let answer = Answer { status, url: text(&response["url"]) };
            if status >= 400 {
                seen.errors.push(format!("{status} {}", answer.url));
            }
            seen.answers.push(answer);
        }
        // A cancelled request is no error: the page, or a navigation, cancelled it.
        Some("Network.loadingFailed") if parameters["canceled"] != true => {
            let url = urls.get(&request).cloned().unwrap_or(request);
            seen.errors.push(format!("{} {url}", text(&parameters["errorText"])));
        }
        _ => {}
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(method: &str, parameters: Value) -> Value {
        json!({"message": json!({"message": {"method": method, "params": parameters}}).to_string()})
    }

    #[test]
    fn cancelled_requests_are_no_errors_and_others_are() {
        let request = |id: &str, url: &str| {
            event("Network.requestWillBeSent", json!({"requestId": id, "request": {"url": url}}))
        };
        let response = |status: u16, url: &str| {
            event("Network.responseReceived", json!({"response": {"status": status, "url": url}}))
        };
        let failed = |id: &str, canceled: bool| {
            event(
                "Network.loadingFailed",
                json!({"requestId": id, "errorText": "net::ERR_CONNECTION_REFUSED", "canceled": canceled}),
            )
        };
        let performance = [
            request("1", "http://hub/a.js"),
            response(200, "http://hub/"),
            response(404, "http://hub/b.css"),
            failed("1", false),
            failed("2", true),
            event("Page.frameNavigated", json!({})),
        ];
        let console = [
            json!({"level": "SEVERE", "message": "Uncaught TypeError"}),
            json!({"level": "WARNING", "message": "old"}),
        ];
        let seen = read(&performance, &console).unwrap();
        assert_eq!(
            seen.errors,
            [
                "404 http://hub/b.css",
                "net::ERR_CONNECTION_REFUSED http://hub/a.js",
                "console: Uncaught TypeError"
            ]
        );
        let answers: Vec<_> =
            seen.answers.iter().map(|answer| (answer.status, answer.url.as_str())).collect();
        assert_eq!(answers, [(200, "http://hub/"), (404, "http://hub/b.css")]);
    }
}

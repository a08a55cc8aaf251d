//! Images: `/api/v1/images`.

use hostler_model::{api::Page, image::Image};

use crate::{Client, ClientError, call::Call};

impl Client {
    /// All images: the server gives them on one page.
    pub async fn images(&self) -> Result<Vec<Image>, ClientError> {
        let page: Page<Image> = self.call(Call::get("/api/v1/images")).await?;
        Ok(page.items)
    }
}
